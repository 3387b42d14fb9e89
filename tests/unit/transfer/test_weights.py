"""Weights from elsewhere: which are an encoder's is found out, and what does not fit is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtlkit import InputSpec, MultiTaskModel, heads
from mtlkit.architectures import CrossStitch, HardSharing
from mtlkit.encoders import CNN, MLP, Identity
from mtlkit.transfer import Fit


def mlp(*layers, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP(InputSpec((3,)), layers=layers or (5, 4))


def model(architecture=HardSharing, **options):
    seeds = iter(range(1, 9))
    shared = architecture(lambda: mlp(seed=next(seeds)), n_tasks=2, **options)
    return MultiTaskModel(shared, {"a": heads.MLP(shared.features, 2), "b": heads.Linear(shared.features, 1)})


def under(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def is_loaded(encoder, weights, prefix=""):
    return all(torch.equal(tensor, weights[prefix + name]) for name, tensor in encoder.state_dict().items())


class TestPrefix:
    @pytest.mark.parametrize("prefix", ["", "encoder.", "module.backbone.0."])
    def test_is_found_out(self, prefix):
        encoder, weights = mlp(), under(prefix, mlp(seed=1).state_dict())
        fit = Fit.of(encoder, weights)
        assert (fit.prefix, fit.is_whole, str(fit)) == (prefix, True, "all 4 tensors fit")
        fit.load(encoder, weights)
        assert is_loaded(encoder, weights, prefix)

    def test_is_that_of_the_encoder_among_heads_and_more(self):
        encoder, weights = mlp(), model().state_dict()
        assert Fit.of(encoder, weights).prefix == "architecture.encoder."
        assert Fit.of(encoder, weights).is_whole

    def test_goes_by_shapes_where_names_are_alike(self):
        weights = under("first.", mlp(6, 4).state_dict()) | under("second.", mlp().state_dict())
        assert Fit.of(mlp(), weights).prefix == "second."

    def test_that_several_have_is_asked_for(self):
        weights = model(CrossStitch, inputs=InputSpec((3,))).state_dict()
        with pytest.raises(ValueError, match=r"weights of 2 encoders fit alike.*encoders\.0\., .*encoders\.1\.: say"):
            Fit.of(mlp(), weights)
        fit = Fit.of(mlp(), weights, prefix="architecture.encoders.1.")
        assert fit.is_whole

    def test_of_its_own_name_decides(self):
        weights = model(CrossStitch, inputs=InputSpec((3,))).state_dict()
        for number in (0, 1):
            encoder, own = mlp(), f"architecture.encoders.{number}."
            Fit.of(encoder, weights, own=own).load(encoder, weights)
            assert is_loaded(encoder, weights, own)

    def test_that_nothing_has_is_refused(self):
        with pytest.raises(
            ValueError, match=r"none of the encoder's tensors is there by the prefix 'x\.': it has layer"
        ):
            Fit.of(mlp(), model().state_dict(), prefix="x.")
        with pytest.raises(ValueError, match=r"tensors is there: it has layers.*, \.\.\., and there is nothing"):
            Fit.of(mlp(), {})
        with pytest.raises(ValueError, match=r"it has nothing, and there is layers\.0\.1\.weight"):
            Fit.of(Identity(InputSpec((3,))), mlp().state_dict())


class TestReport:
    def test_says_what_is_missing_and_what_is_nearest_to_it(self):
        weights = mlp().state_dict()
        weights["layers.1.0.wieght"] = weights.pop("layers.1.0.weight")
        fit = Fit.of(mlp(), weights)
        assert not fit.is_whole
        assert fit.missing == {"layers.1.0.weight": "layers.1.0.wieght"}
        assert fit.unexpected == ("layers.1.0.wieght",)
        assert str(fit) == (
            "missing there: 1 of the encoder's 4 tensors, layers.1.0.weight (nearest: layers.1.0.wieght); "
            "not the encoder's: 1, layers.1.0.wieght"
        )

    def test_says_what_has_another_shape(self):
        fit = Fit.of(mlp(6, 4), mlp().state_dict())
        assert fit.misshapen["layers.0.1.weight"] == "(5, 3) there, (6, 3) here"
        assert set(fit.misshapen) == {"layers.0.1.weight", "layers.0.1.bias", "layers.1.0.weight"}
        assert fit.matched == ("layers.1.0.bias",)
        assert str(fit).startswith("of another shape: 3 of 4, layers.0.1.weight ((5, 3) there, (6, 3) here), ")

    def test_says_what_is_of_whole_numbers(self):
        weights = {name: tensor.to(torch.int8) for name, tensor in mlp().state_dict().items()}
        fit = Fit.of(mlp(), weights)
        assert fit.matched == ()
        assert fit.misshapen["layers.0.1.bias"] == "torch.int8 there, torch.float32 here"

    def test_names_three_and_counts_all(self):
        weights = mlp().state_dict() | {f"fc{number}.weight": torch.zeros(1) for number in range(5)}
        assert str(Fit.of(mlp(), weights)) == ("not the encoder's: 5, fc0.weight, fc1.weight, fc2.weight, ...")

    def test_does_not_count_what_is_not_under_the_prefix(self):
        assert Fit.of(mlp(), model().state_dict()).unexpected == ()


def test_what_fits_is_loaded_and_the_rest_is_left_alone():
    encoder, before = mlp(5, 4, 3), mlp(5, 4, 3).state_dict()
    weights = mlp(5, 4, 2, seed=1).state_dict()
    fit = Fit.of(encoder, weights)
    fit.load(encoder, weights)
    after = encoder.state_dict()
    for name in after:
        assert torch.equal(after[name], (weights if name in fit.matched else before)[name]), name
    assert set(fit.misshapen) == {"layers.2.0.weight", "layers.2.0.bias"}


def test_statistics_are_loaded_too_and_the_dtype_stays_the_encoders():
    trained = CNN(InputSpec((1, 4, 4)), channels=(2,), layers=(3,), norm="batch").double()
    trained(torch.randn(8, 1, 4, 4, dtype=torch.float64))
    encoder = CNN(InputSpec((1, 4, 4)), channels=(2,), layers=(3,), norm="batch")
    Fit.of(encoder, trained.state_dict()).load(encoder, trained.state_dict())
    norm, expected = (next(m for m in each.modules() if isinstance(m, nn.BatchNorm2d)) for each in (encoder, trained))
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_mean, expected.running_mean.float())
    assert all(parameter.dtype is torch.float32 for parameter in encoder.parameters())
