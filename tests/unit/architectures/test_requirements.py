"""The shapes between the stages of an encoder, and what is said of one that lacks what an architecture requires."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mtlkit import Encoder, FeatureSpec, InputSpec
from mtlkit.architectures.requirements import stage_shapes, tensor_features
from mtlkit.encoders import CNN, MLP, Identity, Tabular, Transformer, ViT

TABLE = InputSpec(parts={"numeric": InputSpec((3,)), "categorical": InputSpec((2,), (4, 9))})


@pytest.mark.parametrize(
    ("inputs", "make", "expected"),
    [
        (InputSpec((2, 3)), lambda i: MLP(i, layers=(7, 5)), [(7,), (5,)]),
        (InputSpec((1, 9, 8)), lambda i: CNN(i, channels=(4, 6), layers=(5,)), [(4, 4, 4), (6, 2, 2), (5,)]),
        (InputSpec((1, 8, 8)), lambda i: ViT(i, patch=4, width=8, depth=2, heads=2), [(4, 8), (4, 8), (8,)]),
        (
            InputSpec((6,), (11,) * 6),
            lambda i: Transformer(i, width=8, depth=1, heads=2, padding=0, pool="none"),
            [(6, 8), (6, 8)],
        ),
        (TABLE, lambda i: Tabular(i, width=5, depth=2), [(5,), (5,)]),
    ],
    ids=["mlp", "cnn", "vit", "transformer", "tabular"],
)
def test_the_shapes_after_each_stage_are_found(inputs, make, expected):
    assert stage_shapes(make(inputs), inputs, "it") == expected


class Watchful(Encoder):
    """Normalises, drops, and counts what it sees."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.layers[2].eval()
        self.features = FeatureSpec((4,))

    def stages(self):
        return [self.layers]


def test_the_encoder_is_left_as_it_is():
    with torch.random.fork_rng():
        encoder = Watchful()
        before, state = {name: value.clone() for name, value in encoder.state_dict().items()}, torch.get_rng_state()
        assert stage_shapes(encoder, InputSpec((3,)), "it") == [(4,)]
        assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert [module.training for module in encoder.modules()] == [True, True, True, True, False]


class Named(Watchful):
    def through(self, index, hidden, context):
        return {"first": hidden}


class Summing(Watchful):
    def through(self, index, hidden, context):
        return hidden.sum(0, keepdim=True)


class Closed(Watchful):
    def stages(self):
        return ()


class Several(Watchful):
    def __init__(self):
        super().__init__()
        self.features = FeatureSpec(parts={"a": FeatureSpec((4,)), "b": FeatureSpec((2, 2))})


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        (Named(), r"it takes one tensor .* and stage 0 of Named makes 'first' of shape \(2, 3\) .* of 2 rows"),
        (Summing(), r"stage 0 of Summing makes shape \(1, 3\) and dtype torch.float32 of 2 rows"),
        (Closed(), "it acts between the stages of an encoder, and Closed has none"),
        (Several(), r"it takes features that are one tensor, and Several makes several: \{a: \(4,\), b: \(2, 2\)\}"),
        (Identity(InputSpec((3,))), "it shares what an encoder learns, and Identity has no parameters; hard-sharing"),
    ],
)
def test_what_an_encoder_lacks_is_said(encoder, said):
    with pytest.raises(ValueError, match=said):
        stage_shapes(encoder, InputSpec((3,)), "it")


def test_mixtures_need_no_stages():
    assert tensor_features(Closed(), "it") == FeatureSpec((4,))
    for encoder in (Several(), Identity(InputSpec((3,)))):
        with pytest.raises(ValueError, match=r"it takes features that are one|it shares what"):
            tensor_features(encoder, "it")
