"""The heads that a task may return."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit import FeatureSpec
from mtlkit.heads import MLP, Linear

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def rows(n, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def linears(head):
    return [layer for layer in head.modules() if isinstance(layer, nn.Linear)]


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.integers(1, 5), st.lists(st.integers(1, 5), max_size=3), st.integers(1, 4))
def test_features_of_any_shape_become_one_row_of_outputs(shape, outputs, layers, n):
    for head in (Linear(FeatureSpec(shape), outputs), MLP(FeatureSpec(shape), outputs, layers=layers)):
        assert head(torch.zeros(n, *shape)).shape == (n, outputs)


def test_a_row_may_be_a_single_feature():
    for head in (Linear(FeatureSpec(()), 2), MLP(FeatureSpec(()), 2)):
        assert head(torch.zeros(4)).shape == (4, 2)


def test_a_linear_head_is_one_matrix():
    head, z = Linear(FeatureSpec((2, 3)), 4), rows(5, 2, 3)
    (layer,) = linears(head)
    torch.testing.assert_close(head(z), z.reshape(5, 6) @ layer.weight.T + layer.bias)


def test_an_mlp_head_ends_in_a_linear_layer():
    head, z = MLP(FeatureSpec((3,)), 2, layers=[4], activation="tanh"), rows(5, 3)
    hidden, output = linears(head)
    expected = torch.tanh(z @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias
    torch.testing.assert_close(head(z), expected)


def test_an_mlp_head_without_hidden_layers_is_linear():
    head, z = MLP(FeatureSpec((3,)), 2, layers=[]), rows(5, 3)
    (layer,) = linears(head)
    torch.testing.assert_close(head(z), z @ layer.weight.T + layer.bias)


def test_dropout_drops_in_training_alone():
    head, z = MLP(FeatureSpec((8,)), 2, layers=[32], dropout=0.5), rows(3, 8)
    with torch.random.fork_rng():
        assert not torch.equal(head(z), head(z))
        head.eval()
        assert torch.equal(head(z), head(z))


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="unknown activation 'sine'; known: relu"):
        MLP(FeatureSpec((2,)), 1, activation="sine")
