"""MultiTaskModel and hard sharing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtlkit import Architecture, InputSpec, MultiTaskModel
from mtlkit.architectures import HardSharing
from mtlkit.encoders import MLP
from mtlkit.heads import Linear


class Counting(MLP):
    """Counts the batches that it encodes."""

    def __init__(self):
        super().__init__(InputSpec((3,)), layers=(4, 2), activation="tanh")
        self.batches = 0

    def forward(self, inputs):
        self.batches += 1
        return super().forward(inputs)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = HardSharing(Counting, 3)
        heads = {label: Linear(architecture.features, n) for label, n in (("b", 1), ("a", 2), ("c", 3))}
        return MultiTaskModel(architecture, heads)


@pytest.fixture
def rows():
    return torch.linspace(-1, 1, 15).reshape(5, 3)


def test_each_task_gets_its_output_in_the_order_of_the_heads(model, rows):
    outputs = model(rows)
    assert list(outputs) == list(model.labels) == ["b", "a", "c"]
    z = model.architecture.encoder(rows)
    for label, output in outputs.items():
        assert torch.equal(output, model.head(label)(z))


def test_tasks_may_be_chosen(model, rows):
    every = model(rows)
    chosen = model(rows, ["c", "b"])
    assert list(chosen) == ["c", "b"]
    assert all(torch.equal(output, every[label]) for label, output in chosen.items())


def test_features_are_encoded_once_and_are_one_tensor(model, rows):
    features = model.encode(rows)
    assert model.architecture.encoder.batches == 1
    assert list(features) == ["b", "a", "c"]
    assert features["a"] is features["b"] is features["c"]
    assert features["a"].shape == (5, *model.architecture.features.shape)


def test_forward_is_encode_then_decode(model, rows):
    decoded = model.decode(model.encode(rows, ["a"]))
    assert torch.equal(decoded["a"], model(rows)["a"])


def test_an_architecture_is_told_the_number_of_each_task(rows):
    class Doubling(Architecture):
        """Features that say whose they are."""

        def forward(self, inputs, tasks):
            return [inputs * 10**task for task in tasks]

    model = MultiTaskModel(Doubling(), {label: nn.Identity() for label in "xyz"})
    assert torch.equal(model(rows, ["z", "x"])["z"], rows * 100)
    assert torch.equal(model(rows)["y"], rows * 10)


@pytest.mark.parametrize("label", ["values", "keys", "items", "pop", "forward", "type", "0", "a-b"])
def test_a_task_may_be_called_like_a_method(rows, label):
    model = MultiTaskModel(HardSharing(Counting, 1), {label: nn.Identity()})
    assert list(model(rows)) == [label]
    assert isinstance(model.head(label), nn.Identity)


def test_every_parameter_is_registered_once(model):
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"architecture", "heads"}
    assert len(list(model.parameters())) == 4 + 3 * 2


def test_a_state_dict_brings_the_outputs_back(model, rows):
    architecture = HardSharing(Counting, 3)
    heads = {label: Linear(architecture.features, n) for label, n in (("b", 1), ("a", 2), ("c", 3))}
    other = MultiTaskModel(architecture, heads)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(output, other(rows)[label]) for label, output in model(rows).items())


def test_hard_sharing_builds_one_encoder():
    built = []

    def make():
        built.append(Counting())
        return built[-1]

    architecture = HardSharing(make, 4)
    assert built == [architecture.encoder]
    assert architecture.features == built[0].features
    assert set(map(id, architecture.shared_parameters())) == set(map(id, built[0].parameters()))
    assert architecture.last_shared_layer() is built[0].last_layer()


def test_hard_sharing_answers_for_as_many_tasks_as_asked(rows):
    features = HardSharing(Counting, 4)(rows, [3, 1])
    assert len(features) == 2
    assert features[0] is features[1]


def test_an_architecture_has_to_say_how_tasks_share(rows):
    architecture = Architecture()
    for call in (
        lambda: architecture(rows, [0]),
        architecture.shared_parameters,
        architecture.last_shared_layer,
    ):
        with pytest.raises(NotImplementedError):
            call()


@pytest.fixture
def stems():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {"shared": nn.Linear(2, 3), "own": nn.Linear(5, 3)}


@pytest.fixture
def with_stems(model, stems):
    heads = {label: model.head(label) for label in model.labels}
    own = {"b": stems["shared"], "a": stems["shared"], "c": stems["own"]}
    return MultiTaskModel(model.architecture, heads, own)


def test_rows_pass_through_the_stem_of_their_tasks(with_stems, stems):
    x = torch.linspace(-1, 1, 8).reshape(4, 2)
    outputs = with_stems(x, ["a", "b"])
    z = with_stems.architecture.encoder(stems["shared"](x))
    assert torch.equal(outputs["a"], with_stems.head("a")(z))
    assert with_stems.architecture.encoder.batches == 2


def test_tasks_with_several_stems_share_no_batch(with_stems):
    with pytest.raises(ValueError, match="the rows of 'a' and 'c' pass through several stems"):
        with_stems(torch.zeros(4, 2), ["a", "c"])


def test_a_stem_is_shared_where_several_tasks_train_it(with_stems, stems):
    shared = {id(parameter) for parameter in with_stems.shared_parameters()}
    assert {id(parameter) for parameter in stems["shared"].parameters()} <= shared
    assert shared.isdisjoint(id(parameter) for parameter in stems["own"].parameters())
    assert {id(parameter) for parameter in with_stems.architecture.parameters()} <= shared


def test_a_stem_of_several_tasks_is_kept_once(with_stems):
    assert [name for name in with_stems.state_dict() if name.startswith("stems")] == [
        f"stems.task_{label}.{part}" for label in ("b", "c") for part in ("weight", "bias")
    ]
