"""What is frozen needs no gradient and stays in evaluation mode; thawing goes from the last level back."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit import Encoder, FeatureSpec, InputSpec
from mtlkit.architectures import CrossStitch
from mtlkit.encoders import CNN, MLP, ResNet, ViT
from mtlkit.transfer import (
    Thawing,
    encoders_of,
    levels_of,
    rest_of_level,
    rest_of_names,
    will_be_trained,
)


@pytest.fixture(name="encoder")
def fixture_encoder():
    """Two stages of convolutions with batch statistics, and one layer with dropout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CNN(InputSpec((1, 4, 4)), channels=(2, 2), layers=(3,), norm="batch", dropout=0.5)


def frozen(module):
    return [name for name, parameter in module.named_parameters() if not parameter.requires_grad]


def norms(module):
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]


class Wrapped(Encoder):
    """An encoder of encoders, which does not say of its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = MLP(InputSpec((3,)), layers=(4,))
        self.features = FeatureSpec((4,))

    def forward(self, inputs):
        return self.inner(inputs)


class Beside(MLP):
    """A parameter that is in none of its stages."""

    def __init__(self) -> None:
        super().__init__(InputSpec((3,)), layers=(4,))
        self.scale = nn.Parameter(torch.ones(4))


class TestFreezing:
    def test_a_stage_needs_no_gradient(self, encoder):
        rest_of_level(encoder, 0).begin()
        encoder(torch.randn(4, 1, 4, 4)).sum().backward()
        assert frozen(encoder) == [f"convolutions.0.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")]
        assert all((parameter.grad is None) == (not parameter.requires_grad) for parameter in encoder.parameters())

    def test_statistics_of_a_frozen_stage_do_not_drift(self, encoder):
        rest_of_level(encoder, 0).begin()
        for _ in range(2):  # an evaluation comes between
            encoder.train()(5 + torch.randn(8, 1, 4, 4))
            encoder.eval()
        first, second = norms(encoder)
        assert (first.num_batches_tracked, second.num_batches_tracked) == (0, 2)
        assert first.running_mean.eq(0).all()

    def test_dropout_of_a_frozen_stage_does_not_act(self, encoder):
        rest_of_level(encoder, 2).begin()
        x = torch.randn(4, 8)
        assert torch.equal(encoder.layers[0](x), encoder.layers[0](x))

    def test_ends(self, encoder):
        rest = rest_of_level(encoder, 0)
        rest.begin()
        rest.end()
        assert frozen(encoder) == []
        assert all(module.training for module in encoder.modules())
        assert encoder.resting == ()

    def test_leaves_alone_what_the_encoder_froze_itself(self, encoder):
        norms(encoder)[0].requires_grad_(requires_grad=False)
        rest = rest_of_level(encoder, 0)
        rest.begin()
        rest.end()
        assert frozen(encoder) == ["convolutions.0.1.weight", "convolutions.0.1.bias"]

    def test_goes_with_a_copy(self, encoder):
        rest_of_level(encoder, 0).begin()
        copied = copy.deepcopy(encoder).train()
        copied(5 + torch.randn(8, 1, 4, 4))
        assert [int(norm.num_batches_tracked) for norm in norms(copied)] == [0, 1]

    @pytest.mark.parametrize(
        "build",
        [
            lambda: ResNet(InputSpec((1, 8, 8)), width=1 / 16, norm="batch"),
            lambda: ResNet(InputSpec((1, 8, 8)), width=1 / 16, norm="batch", output="maps"),
            lambda: ViT(InputSpec((1, 4, 4)), width=4, depth=2, heads=1, dropout=0.5),
        ],
    )
    def test_all_levels_are_all_of_an_encoder(self, build):
        encoder = build().train()
        for number in range(len(levels_of(encoder))):
            rest_of_level(encoder, number).begin()
        encoder.train()
        shape = (4, 1, 8, 8) if isinstance(encoder, ResNet) else (4, 1, 4, 4)
        x, before = torch.randn(shape), copy.deepcopy(encoder.state_dict())
        first, second = encoder(x), encoder(x)
        for one, other in zip(
            first.values() if isinstance(first, dict) else [first],
            second.values() if isinstance(second, dict) else [second],
            strict=True,
        ):
            assert torch.equal(one, other)
            assert not one.requires_grad
        assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())

    def test_of_no_such_stage_is_refused(self, encoder):
        with pytest.raises(ValueError, match="CNN has 3 stages, numbered from 0 to 2, and there is no stage 3"):
            rest_of_level(encoder, 3)
        with pytest.raises(ValueError, match="Wrapped does not say of which stages it is made"):
            rest_of_level(Wrapped(), 0)
        with pytest.raises(ValueError, match="Beside has parameters in none of its stages: scale"):
            rest_of_level(Beside(), 0)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "names", "modules"),
        [
            ("convolutions.0", ["convolutions.0.0.weight", "convolutions.0.0.bias"], {"convolutions.0"}),
            ("convolutions.0.0.*", ["convolutions.0.0.weight", "convolutions.0.0.bias"], {"convolutions.0.0"}),
            ("*.bias", ["convolutions.0.0.bias", "layers.0.1.bias"], set()),
            ("*.1", ["convolutions.0.1.weight", "layers.0.1.bias"], {"layers", "convolutions.1", "convolutions.0.1"}),
            ("*", ["convolutions.0.0.weight", "layers.0.1.bias"], {""}),
        ],
    )
    def test_are_of_parameters_and_of_modules(self, encoder, pattern, names, modules):
        rest = rest_of_names(encoder, pattern)
        rest.begin()
        assert set(names) <= set(frozen(encoder))
        held = {id(module) for module in rest.modules}
        assert {name for name, module in encoder.named_modules() if id(module) in held} == modules
        assert all(not any(m.training for m in module.modules()) for module in rest.modules)

    def test_that_match_no_name_are_refused(self, encoder):
        with pytest.raises(
            ValueError, match=r"no parameter by the name 'layrs\.0'\. Did you mean 'layers'\? It is made"
        ):
            rest_of_names(encoder, "layrs.0")

    def test_do_not_match_a_part_of_a_name(self, encoder):
        with pytest.raises(ValueError, match="no parameter by the name 'conv'"):
            rest_of_names(encoder, "conv")


class TestEncodersOf:
    def test_finds_each_of_several(self):
        shared = CrossStitch(lambda: MLP(InputSpec((3,)), layers=(4, 4)), n_tasks=2, inputs=InputSpec((3,)))
        assert list(encoders_of(shared)) == ["encoders.0", "encoders.1"]

    def test_does_not_look_within_one(self):
        outer = nn.ModuleDict({"first": Wrapped(), "second": Wrapped()})
        assert list(encoders_of(outer)) == ["first", "second"]
        assert list(encoders_of(Wrapped())) == [""]


class TestThawing:
    def thawing(self, encoder, every):
        parts = [[rest_of_level(encoder, number)] for number in (2, 1, 0)]
        for (rest,) in parts:
            rest.begin()
        return Thawing(parts, every)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 4), st.lists(st.integers(0, 20), min_size=1, max_size=5))
    def test_depends_on_the_step_alone(self, every, steps):
        encoder = CNN(InputSpec((1, 4, 4)), channels=(2, 2), layers=(3,), norm="batch")
        thawing = self.thawing(encoder, every)
        for step in steps:
            thawing.at(step)
            for number, level in enumerate(encoder.levels()):
                thawed = step >= every * (3 - number)
                assert all(parameter.requires_grad == thawed for parameter in level.parameters())
                assert all(module.training == thawed for module in level.modules())

    def test_knows_what_will_be_trained(self, encoder):
        thawing = self.thawing(encoder, 2)
        assert all(map(will_be_trained, encoder.parameters()))
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        rest_of_level(other := CNN(InputSpec((1, 4, 4))), 0).begin()
        assert not will_be_trained(next(other.parameters()))
        assert thawing.thawed == 0

    def test_in_evaluation_mode_wakes_nothing(self, encoder):
        thawing = self.thawing(encoder.eval(), 1)
        thawing.at(9)
        assert not any(module.training for module in encoder.modules())
        assert frozen(encoder) == []
