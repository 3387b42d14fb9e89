"""MGDA's upper bound (Sener, Koltun, NeurIPS 2018, equation 4): the shortest combination at the features."""

from __future__ import annotations

import numpy as np
import torch

from mtlkit.strategies import MGDAUB


def closed_form(first, second):
    """Return the weights of two: a_1 = clip((g_2 - g_1) . g_2 / ||g_1 - g_2||^2, 0, 1)."""
    a = float(((second - first) @ second / ((first - second) @ (first - second))).clamp(0, 1))
    return torch.tensor([a, 1 - a], dtype=torch.float64)


def test_the_gradients_are_those_of_every_example_at_the_features(network):
    model, strategy = network(2, seed=9), MGDAUB(2)
    for _ in range(4):
        dense = model.dense()
        expected = closed_form(*dense.features)
        summed = dense.features.reshape(2, len(model.rows), -1).sum(1)  # over the batch, which it is not
        assert not torch.allclose(expected, closed_form(*summed), atol=1e-3)
        assert not torch.allclose(expected, closed_form(*dense.rows), atol=1e-3)
        weights = model.backward(strategy).weights
        torch.testing.assert_close(weights, expected, rtol=1e-9, atol=0)
        model.assert_shared(expected @ dense.rows)
        model.assert_heads([1.0, 1.0], dense)
        model.step()


def test_the_conditions_of_a_minimum_hold_at_the_features(network):
    model = network(4, seed=1)
    dense = model.dense()
    weights = model.backward(MGDAUB(4)).weights.numpy()
    direction = weights @ dense.features.numpy()
    products = dense.features.numpy() @ direction
    assert (products >= direction @ direction - 1e-12).all()
    np.testing.assert_allclose(products[weights > 1e-9], direction @ direction, rtol=1e-8)


def test_normalised_by_the_losses(network):
    model = network(2, seed=9)
    dense = model.dense()
    expected = closed_form(*(dense.features / dense.losses[:, None]))
    torch.testing.assert_close(model.backward(MGDAUB(2, normalize="loss")).weights, expected, rtol=1e-9, atol=0)
    model.assert_shared(expected @ dense.rows)


def test_tasks_that_are_absent_take_no_part(network):
    model = network(3, seed=9)
    dense = model.dense([1, 0])
    expected = closed_form(*dense.features)
    torch.testing.assert_close(model.backward(MGDAUB(3), [1, 0]).weights, expected, rtol=1e-9, atol=0)
    model.assert_shared(expected @ dense.rows)
    model.assert_heads([1.0, 1.0], dense, [1, 0])
