"""lora, against encoders whose weights were changed by hand."""

from __future__ import annotations

import copy

import pytest
import torch

from mtlkit import Encoder, FeatureSpec, InputSpec
from mtlkit.architectures import LoRA
from mtlkit.encoders import MLP, ResNet, Transformer, ViT


def linear_weights(encoder):
    """Return the linear weights of an encoder by name, and how many matrices stand one on the other in each."""
    found = {}
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            found[f"{name}.weight"] = 1
        if isinstance(module, torch.nn.MultiheadAttention):
            found[f"{name}.in_proj_weight"] = 3
    return found


def by_hand(architecture, task, rows, scale):
    """Return the features of a copy of the encoder with the updates added to its weights."""
    encoder = copy.deepcopy(architecture.encoder)
    weights = linear_weights(encoder)
    assert architecture.names == sorted(weights, key=list(dict(encoder.named_parameters())).index)
    with torch.no_grad():
        for name, update in zip(architecture.names, architecture.updates[task], strict=True):
            assert len(update.a) == len(update.b) == weights[name]
            encoder.get_parameter(name).add_(
                torch.cat([scale * b @ a for a, b in zip(update.a, update.b, strict=True)])
            )
    return encoder(rows)


@pytest.mark.parametrize("kind", ["mlp", "deep mlp", "cnn", "sentences", "closed", "table"])
def test_each_linear_layer_has_an_update_of_low_rank(build, kind):
    built = build(LoRA, kind, n_tasks=2, rank=2, alpha=3.0)
    for task, features in enumerate(built.features(0, 1)):
        expected = by_hand(built.architecture, task, built.rows, scale=1.5)
        torch.testing.assert_close(features, expected, rtol=1e-11, atol=1e-13)
    assert all(update.a.shape[1] == update.b.shape[2] == 2 for update in built.architecture.updates[0])


@pytest.mark.parametrize("evaluating", [False, True])
def test_attention_has_one_for_queries_keys_and_values_each(evaluating):
    inputs = InputSpec((6,), (9,) * 6)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = LoRA(lambda: Transformer(inputs, width=8, depth=2, heads=2, padding=0), 2).double()
        rows = torch.randint(9, (5, 6))
        with torch.no_grad():
            for parameter in architecture.updates.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    assert [update.b.shape[0] for update in architecture.updates[0]].count(3) == 2
    architecture.train(not evaluating)
    with torch.set_grad_enabled(not evaluating):  # torch takes a shorter way through a block where it may
        for task, features in enumerate(architecture(rows, [0, 1])):
            expected = by_hand(architecture, task, rows, scale=1.0)
            torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-12)


def test_every_task_begins_with_the_encoder():
    inputs = InputSpec((1, 8, 8))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = LoRA(lambda: ViT(inputs, width=8, depth=1, heads=2), 2)
        rows = torch.randn(3, 1, 8, 8)
    expected = architecture.encoder(rows)
    assert all(torch.equal(features, expected) for features in architecture(rows, [0, 1]))


def test_the_encoder_is_shared_and_updates_are_not(build, trained_by, assert_all_train):
    built = build(LoRA, "deep mlp")
    assert_all_train(built)
    shared = set(map(id, built.architecture.shared_parameters()))
    names = {name for name, each in built.architecture.named_parameters() if id(each) in shared}
    assert names == {name for name in trained_by(built, 1) if not name.startswith("updates.1.")}
    assert built.architecture.last_shared_layer() is built.made[0].last_layer()


def test_the_encoder_keeps_its_own_weights(build):
    built = build(LoRA, "mlp")
    before = {name: value.clone() for name, value in built.architecture.state_dict().items()}
    built.features(0, 1)
    assert all(torch.equal(before[name], value) for name, value in built.architecture.state_dict().items())


class Tied(Encoder):
    """A layer whose weight is that of another."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.features = FeatureSpec((4,))

    def forward(self, inputs):
        return self.second(self.first(inputs).tanh())


def test_weights_that_are_tied_stay_so():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        architecture = LoRA(Tied, 1, rank=1).double()
        rows = torch.randn(3, 4).double()
        torch.nn.init.normal_(architecture.updates[0][0].b)
    assert architecture.names == ["first.weight"]
    encoder = architecture.encoder
    weight = encoder.first.weight + 8 * architecture.updates[0][0].b[0] @ architecture.updates[0][0].a[0]
    expected = (rows @ weight.T + encoder.first.bias).tanh() @ weight.T + encoder.second.bias
    torch.testing.assert_close(architecture(rows, [0])[0], expected, rtol=1e-12, atol=1e-14)


def test_features_by_name_are_served():
    inputs = InputSpec((1, 8, 8))

    class Named(MLP):
        """The same vector by two names."""

        def __init__(self):
            super().__init__(inputs, layers=(5,))
            self.features = FeatureSpec(parts={"a": FeatureSpec((5,)), "b": FeatureSpec((5,))})

        def forward(self, rows):
            made = super().forward(rows)
            return {"a": made, "b": -made}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = LoRA(Named, 2)(torch.randn(3, 1, 8, 8), [1])
    assert torch.equal(made[0]["a"], -made[0]["b"])


def test_an_encoder_without_linear_layers_is_refused(build):
    with pytest.raises(ValueError, match="lora changes the linear layers of an encoder, and Maps has none"):
        build(LoRA, "maps")
    with pytest.raises(ValueError, match="ResNet has none"):
        LoRA(lambda: ResNet(InputSpec((1, 8, 8)), width=0.1), 2)
