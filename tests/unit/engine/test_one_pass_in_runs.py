"""Runs over several sources, whose batches go through the encoder as one where that changes no result."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mtlkit
from mtlkit.encoders import CNN, MLP
from mtlkit.encoders.row_by_row import is_linear, is_row_by_row
from mtlkit.engine import events
from mtlkit.errors import PluginError
from mtlkit.specs import InputSpec

# Four sources of a task each; then one of them with two; then two, of two tasks each.
TASKS = [
    {"name": "side", "label": "a", "options": {"seed": 1}},
    {"name": "distance", "label": "b", "options": {"seed": 2}},
    {"name": "side", "label": "c", "options": {"seed": 3, "rows": 70}},
    {"name": "distance", "label": "d", "options": {"seed": 4}},
]
TWICE = [*TASKS, {"name": "side", "label": "e", "options": {"seed": 2}}]
EVEN = [*TWICE[:2], TWICE[4], {"name": "distance", "label": "f", "options": {"seed": 1}}]
GAPS = [{**task, "options": {**task["options"], "gaps": 3}} for task in TASKS]
FLOAT64 = {"precision": "float64", "steps": 6, "steps_per_epoch": 3}


class Watched(MLP):
    """An mlp that notes how many rows each pass has in training, and whether gradients are wanted."""

    row_by_row: ClassVar[bool] = True
    passes: ClassVar[list[int]] = []

    def forward(self, inputs):
        if self.training and torch.is_grad_enabled():
            self.passes.append(len(inputs))
        return super().forward(inputs)


class Silent(Watched):
    """The same, but that it does not say that its rows are apart."""


@pytest.fixture(name="both")
def fixture_both(train):
    """Return a function that trains a run with and without joined batches, and returns both, and the passes of each."""

    def both(**settings):
        found = []
        encoder = settings.pop("encoder", {})
        for name, kind in (("joined", Watched), ("apart", Silent)):
            Watched.passes.clear()
            run = train(
                tasks_given={"watched": kind, **settings.get("given", {})},
                **{
                    "tasks": TASKS,
                    "encoder": {"name": "watched", "layers": [8, 6], **encoder},
                    **{key: value for key, value in settings.items() if key != "given"},
                    "run": {"name": name},
                    "training": FLOAT64 | settings.get("training", {}),
                },
            )
            found.append((run.folder, list(Watched.passes)))
        return found

    return both


def assert_alike(records, one, other, rtol=1e-9):
    """Require the same weights and losses of two runs."""
    first, second = (load_file(folder / "best" / "weights.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=rtol, atol=rtol * 1e-2, msg=lambda m, n=name: f"{n}: {m}")
    for ours, others in zip(records(one, "step"), records(other, "step"), strict=True):
        assert ours["rows"] == others["rows"]
        for key in ("losses", "weights", "gradient_norms"):
            assert ours[key] == pytest.approx(others[key], rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(
    ("strategy", "tasks"),
    [
        *((name, TASKS) for name in ("uncertainty", "famo", "mgda-ub", "gradnorm", "mgda", "pcgrad", "db-mtl")),
        ({"name": "auto-lambda", "primary": ["a"]}, TASKS),
        *((name, TWICE) for name in ("gradnorm", "mgda")),
        *((name, EVEN) for name in ("mgda-ub", "gradnorm", "mgda")),
    ],
)
def test_weights_are_those_of_separate_passes(both, records, strategy, tasks):
    (joined, ours), (apart, others) = both(tasks=tasks, strategy=strategy)
    assert_alike(records, joined, apart)
    assert sum(ours) == sum(others)
    n_sources = 2 if tasks is EVEN else 4
    uneven = tasks is TWICE and strategy == "mgda"
    assert len(ours) == (len(others) if uneven else len(others) // n_sources)


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": GAPS},
        {"mixing": "proportional", "training": {"accumulate": 3}},
        {"training": {"accumulate": 2, "clip_norm": 0.1}},
        {"tasks": [{**TASKS[0], "weight": 3}, *TASKS[1:]]},
        {"training": {"heads": "plain"}},
        {"encoder": {"activation": "gelu"}},
        {"transfer": {"freeze": 1, "unfreeze": {"every": 1}}},
    ],
    ids=["missing labels", "mixing", "accumulation", "a preference", "plain heads", "gelu", "frozen"],
)
@pytest.mark.parametrize("strategy", ["gradnorm", "mgda"])
def test_every_way_to_train_is_as_with_separate_passes(both, records, strategy, settings):
    (joined, ours), (apart, others) = both(strategy=strategy, **settings)
    assert_alike(records, joined, apart)
    assert sum(ours) == sum(others)
    assert len(ours) == len(others) if "mixing" in settings else len(ours) < len(others)


@pytest.mark.parametrize("over", ["features", "last-shared", "parameters"])
def test_samples_are_those_of_separate_passes(both, records, over):
    (joined, ours), (apart, others) = both(strategy="fixed", diagnostics={"every": 3, "over": over})
    assert_alike(records, joined, apart)
    assert len(ours) < len(others)
    samples = [records(folder, "gradients") for folder in (joined, apart)]
    assert len(samples[0]) == 2
    for one, other in zip(*samples, strict=True):
        assert one["norms"] == pytest.approx(other["norms"], rel=1e-7)


@pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda-ub", "mgda", "pcgrad"])
def test_one_backward_pass_tells_the_gradients_of_all(train, strategy):
    class Heard(MLP):
        row_by_row: ClassVar[bool] = True
        passes: ClassVar[list[int]] = []

        def forward(self, inputs):
            made = super().forward(inputs)
            if made.requires_grad and self.training:
                made.register_hook(lambda gradient: self.passes.append(len(gradient)))
            return made

    train(tasks_given={"heard": Heard}, tasks=TASKS, encoder={"name": "heard"}, strategy=strategy)
    assert Heard.passes == [4 * 16] * 12


@pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda"])
def test_a_run_is_the_same_again_and_from_the_middle(train, weights, strategy):
    """Also where dropout draws its masks."""

    def settings(name):
        return {
            "run": {"name": name},
            "tasks": GAPS,
            "strategy": strategy,
            "encoder": {"name": "mlp", "layers": [8, 6], "dropout": 0.3},
            "checkpoints": {"every": 1},
        }

    def stop(event):
        if isinstance(event, events.StepFinished) and event.step == 5:
            raise KeyboardInterrupt  # as if the machine went down

    first, second = (train(**settings(name)).folder for name in ("first", "second"))
    with pytest.raises(KeyboardInterrupt):
        train(**settings("broken"), listeners=[stop])
    resumed = train(**settings("broken"), resume=True).folder
    for folder in (second, resumed):
        assert weights(folder) == weights(first)
        assert (folder / "metrics.jsonl").read_bytes() == (first / "metrics.jsonl").read_bytes()


def test_stems_bring_rows_of_several_kinds_together(both, records, toy):
    class Wide(toy.Points):
        def splits(self):
            return {
                name: mtlkit.Split(torch.cat([split.inputs, split.inputs], 1), split.targets)
                for name, split in super().splits().items()
            }

    class Far(toy.Distance):
        def __init__(self, *, seed: int = 0):
            self.points = Wide(120, seed)

    for strategy, is_joined in (("uncertainty", True), ("gradnorm", True), ("mgda", False)):
        (joined, ours), (apart, others) = both(
            given={"far": Far},
            tasks=[*TASKS, {"name": "far", "stem": {"name": "linear", "shape": [6]}}],
            strategy=strategy,
        )
        assert_alike(records, joined, apart)
        assert (len(ours) < len(others)) is is_joined
        for folder in (joined, apart):
            folder.rename(folder.with_name(f"{folder.name}-{strategy}"))


def test_a_head_may_write_on_its_features(both, records, toy):
    class Writing(toy.Side):
        def head(self, features):
            return nn.Sequential(nn.ReLU(inplace=True), super().head(features))

    tasks = [{"name": "writing", "label": label, "options": {"seed": seed}} for seed, label in enumerate("abcd")]
    (joined, ours), (apart, others) = both(
        given={"writing": Writing}, tasks=tasks, strategy="fixed", encoder={"activation": "identity"}
    )
    assert_alike(records, joined, apart)
    assert len(ours) < len(others)


def test_in_bfloat16_batches_are_joined_where_losses_are_all_that_counts(both):
    for strategy, is_joined in (("fixed", True), ("mgda-ub", True), ("gradnorm", False), ("mgda", False)):
        training = {"precision": "bfloat16"}
        (joined, ours), (apart, others) = both(strategy=strategy, training=training)
        assert (len(ours) < len(others)) is is_joined
        for folder in (joined, apart):
            folder.rename(folder.with_name(f"{folder.name}-{strategy}"))


def test_an_encoder_that_cannot_take_the_rows_of_a_source_is_an_error_of_that_one(train, toy):
    class Picky(MLP):
        row_by_row: ClassVar[bool] = True

        def forward(self, inputs):
            if self.training and (inputs > 100).any():
                raise RuntimeError("too large")
            return super().forward(inputs)

    class Large(toy.Points):
        def splits(self):
            return {n: mtlkit.Split(split.inputs * 1e6, split.targets) for n, split in super().splits().items()}

    class Huge(toy.Side):
        def __init__(self):
            self.points = Large()

    with pytest.raises(PluginError, match=r"cannot take the rows of 'huge', of shape .*: RuntimeError: too large"):
        train(
            tasks_given={"picky": Picky, "huge": Huge},
            tasks=[*TASKS, "huge"],
            encoder={"name": "picky"},
            strategy="fixed",
        )


def test_an_encoder_that_takes_each_batch_and_not_all_of_them_is_told_so(train):
    class Small(MLP):
        row_by_row: ClassVar[bool] = True

        def forward(self, inputs):
            if len(inputs) > 20 and self.training:
                raise RuntimeError("too many")
            return super().forward(inputs)

    with pytest.raises(PluginError, match=r"rows of 'a' and 'b' as one batch, .*too many\. Where rows depend"):
        train(tasks_given={"small": Small}, tasks=TASKS[:2], encoder={"name": "small"}, strategy="fixed")


class Ours(nn.Module):
    """A module of one's own that says nothing."""

    def forward(self, rows):
        return rows - rows.mean(0)


class Said(nn.Linear):
    """A linear layer that says of itself that its rows are apart."""

    row_by_row: ClassVar[bool] = True


class Derived(Said):
    """What is derived from it does not."""


def hooked():
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda *_: None)
    return layer


def compiled():
    layer = nn.Linear(3, 3)
    layer._compiled_call_impl = layer.forward  # as compile() leaves it, which takes long
    return layer


def replaced():
    layer = nn.Linear(3, 3)
    layer.forward = lambda rows: rows
    return layer


@pytest.mark.parametrize(
    ("make", "by_row", "linear"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.1)), True, True),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), True, False),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.MaxPool2d(2), nn.Flatten()), True, False),
        (lambda: nn.TransformerEncoderLayer(8, 2, batch_first=True), True, False),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), False, False),
        (lambda: nn.InstanceNorm2d(3, track_running_stats=True), False, True),
        (lambda: nn.Sequential(Ours()), False, False),
        (lambda: nn.Embedding(4, 3), True, False),
        (lambda: nn.Embedding(4, 3, max_norm=1.0), False, False),
        (lambda: Said(3, 3), True, False),
        (lambda: Derived(3, 3), False, False),
        (hooked, False, True),
        (compiled, True, False),
        (replaced, False, True),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), False, False),
        (lambda: MLP(InputSpec((3,)), dropout=0.1, activation="gelu"), True, True),
        (lambda: CNN(InputSpec((1, 8, 8))), True, False),
        (lambda: CNN(InputSpec((1, 8, 8)), norm="batch"), False, False),
    ],
)
def test_what_is_known_of_a_network(make, by_row, linear):
    network = make()
    assert is_row_by_row(network) is by_row
    if by_row:
        assert is_linear(network) is linear
