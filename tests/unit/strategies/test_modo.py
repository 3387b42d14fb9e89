"""MoDo's walk on the simplex against its recursion (Chen et al., NeurIPS 2023, algorithm 2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlkit.strategies import MGDA, MoDo


def projection(v):
    """Return the point of the simplex nearest to v, max(v - theta, 0), with theta found by bisection."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        theta = (low + high) / 2
        low, high = (theta, high) if np.maximum(v - theta, 0).sum() > 1 else (low, theta)
    return np.maximum(v - low, 0)


def moved(lam, gramian, gamma, rho):
    return projection(lam - gamma * (gramian @ lam + rho * lam))


@pytest.mark.parametrize(("gamma", "rho"), [(0.1, 0.0), (5.0, 0.0), (2.0, 0.5)])
def test_a_run_follows_the_recursion(network, gamma, rho):
    model, strategy, lam = network(3, seed=28), MoDo(3, gamma=gamma, rho=rho), np.full(3, 1 / 3)
    for _ in range(8):
        dense = model.dense()
        lam = moved(lam, dense.gramian.numpy(), gamma, rho)
        weights = model.backward(strategy).weights
        np.testing.assert_allclose(weights, lam, atol=1e-12)
        model.assert_shared(torch.from_numpy(lam) @ dense.rows)
        model.assert_heads(lam, dense)
        model.step()
    assert np.ptp(lam) > 1e-3


def test_it_is_a_projection_and_no_softmax():
    """A task whose gradient is long loses all its weight, which no softmax would take."""
    strategy = MoDo(2, gamma=1.0)
    weights = strategy.weights(torch.ones(2).double(), torch.diag(torch.tensor([9.0, 0.1]).double())).weights
    assert weights.tolist() == [0.0, 1.0]


def test_on_a_gram_matrix_that_stays_it_walks_to_the_weights_of_mgda():
    rows = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 5)))
    strategy, losses = MoDo(3, gamma=0.05), torch.ones(3).double()
    for _ in range(2000):
        weights = strategy.weights(losses, rows @ rows.T).weights
    torch.testing.assert_close(weights, MGDA(3).weights(losses, rows @ rows.T).weights, rtol=0, atol=1e-6)


def test_rho_pulls_towards_equal_weights():
    gramian, losses = torch.diag(torch.tensor([4.0, 1.0]).double()), torch.ones(2).double()
    ends = []
    for rho in (0.0, 1.0, 100.0):
        strategy = MoDo(2, gamma=0.01, rho=rho)
        for _ in range(2000):
            weights = strategy.weights(losses, gramian).weights
        ends.append(weights[0].item())
    np.testing.assert_allclose(ends, [1 / 5, 2 / 7, 101 / 205], atol=1e-6)


def test_tasks_that_are_absent_keep_their_share(network):
    model, strategy = network(3, seed=28), MoDo(3, gamma=2.0)
    lam = np.array([0.5, 0.2, 0.3])
    strategy.walk.lam.copy_(torch.from_numpy(lam))
    dense = model.dense([2, 0])
    expected = moved(np.array([0.375, 0.625]), dense.gramian.numpy(), 2.0, 0.0)
    weights = model.backward(strategy, [2, 0]).weights
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    model.assert_shared(torch.from_numpy(expected) @ dense.rows)
    np.testing.assert_allclose(strategy.walk.lam, [0.8 * expected[1], 0.2, 0.8 * expected[0]], atol=1e-12)


def test_tasks_without_any_share_begin_anew_as_equals():
    strategy = MoDo(3, gamma=0.1)
    strategy.walk.lam.copy_(torch.tensor([1.0, 0.0, 0.0]))
    weights = strategy.weights(torch.ones(2).double(), torch.eye(2).double(), torch.tensor([1, 2])).weights
    assert weights.tolist() == [0.5, 0.5]


def test_evaluation_takes_no_step():
    strategy = MoDo(2).eval()
    strategy.weights(torch.ones(2).double(), torch.diag(torch.tensor([9.0, 0.1]).double()))
    assert strategy.walk.lam.tolist() == [0.5, 0.5]
