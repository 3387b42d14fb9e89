"""MoCo's tracked gradients and walk against its recursion (Fernando et al., ICLR 2023, algorithm 1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mtlkit
from mtlkit.errors import NonFiniteError
from mtlkit.strategies import MGDA, MoCo


def projection(v):
    """Return the point of the simplex nearest to v, max(v - theta, 0), with theta found by bisection."""
    low, high = v.min() - 1, v.max()
    for _ in range(200):
        theta = (low + high) / 2
        low, high = (theta, high) if np.maximum(v - theta, 0).sum() > 1 else (low, theta)
    return np.maximum(v - low, 0)


class Direct:
    """The recursion, on the gradients themselves."""

    def __init__(self, n_tasks, size, beta, gamma, rho):
        self.y, self.lam = np.zeros((n_tasks, size)), np.full(n_tasks, 1 / n_tasks)
        self.beta, self.gamma, self.rho = beta, gamma, rho

    def step(self, gradients):
        self.y = self.y - self.beta * (self.y - gradients)
        self.lam = projection(self.lam - self.gamma * (self.y @ self.y.T @ self.lam + self.rho * self.lam))
        return self.lam @ self.y


@pytest.mark.parametrize(("beta", "gamma", "rho"), [(0.5, 0.1, 0.0), (0.1, 5.0, 0.3), (1.0, 2.0, 0.0)])
def test_a_run_follows_the_recursion(network, beta, gamma, rho):
    model, strategy = network(3, seed=28), MoCo(3, beta=beta, gamma=gamma, rho=rho)
    direct = Direct(3, model.dense().rows.shape[1], beta, gamma, rho)
    for _ in range(8):
        dense = model.dense()
        direction = direct.step(dense.rows.numpy())
        measured = model.backward(strategy)
        np.testing.assert_allclose(measured.weights, direct.lam, atol=1e-12)
        model.assert_shared(torch.from_numpy(direction))
        model.assert_heads(direct.lam, dense)
        np.testing.assert_allclose(strategy.tracked.values, direct.y, atol=1e-13)
        model.step(0.2)


def test_gradients_that_stay_are_tracked_down_and_combined_as_by_mgda():
    rows = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 5)))
    strategy, losses = MoCo(3, gamma=0.05), torch.ones(3).double()
    for _ in range(2000):
        answer = strategy.combine(losses, rows)
    torch.testing.assert_close(strategy.tracked.values, rows)
    expected = MGDA(3).weights(losses, rows @ rows.T).weights
    torch.testing.assert_close(answer.weights, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(answer.direction, expected @ rows, rtol=0, atol=1e-5)


def test_noise_is_averaged_out():
    rng, rows = np.random.default_rng(0), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    strategy, losses = MoCo(2, beta=0.02), torch.ones(2).double()
    for _ in range(1000):
        strategy.combine(losses, torch.from_numpy(rows + rng.normal(size=rows.shape)))
    assert np.abs(strategy.tracked.values.numpy() - rows).max() < 0.4


def test_a_task_that_is_absent_keeps_its_row_and_its_share(network):
    model, strategy = network(3, seed=28), MoCo(3, gamma=3.0)
    model.backward(strategy)
    before, lam = strategy.tracked.values.numpy().copy(), strategy.walk.lam.numpy().copy()
    dense = model.dense([2, 0])
    y = before[[2, 0]] - 0.5 * (before[[2, 0]] - dense.rows.numpy())
    share = lam[[2, 0]].sum()
    expected = projection(lam[[2, 0]] / share - 3.0 * y @ y.T @ (lam[[2, 0]] / share))
    weights = model.backward(strategy, [2, 0]).weights
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    model.assert_shared(torch.from_numpy(expected @ y))
    np.testing.assert_allclose(strategy.tracked.values, [y[1], before[1], y[0]], atol=1e-13)
    np.testing.assert_allclose(strategy.walk.lam, [share * expected[1], lam[1], share * expected[0]], atol=1e-12)


def test_long_gradients_in_float32_do_no_harm():
    strategy = MoCo(2)
    for _ in range(3):
        answer = strategy.combine(torch.ones(2).double(), torch.tensor([[1e25, 0.0], [0.0, 1e-25]]))
    assert answer.weights.tolist() == [0.0, 1.0]
    assert answer.direction.isfinite().all()


def test_evaluation_tracks_nothing():
    strategy = MoCo(2)
    strategy.combine(torch.ones(2).double(), torch.eye(2).double())
    before = {name: value.clone() for name, value in strategy.state_dict().items()}
    strategy.eval()
    strategy.combine(torch.ones(2).double(), 5 * torch.eye(2).double())
    assert all(torch.equal(value, before[name]) for name, value in strategy.state_dict().items())


def test_gradients_that_overflow_on_their_way_to_the_solver_are_told_as_such():
    layer = torch.nn.Linear(2, 2)
    made = layer(torch.ones(3, 2))
    losses = {"a": made[:, 0].sum(), "b": made[:, 1].sum()}
    preference = torch.tensor([1e300, 1.0], dtype=torch.float64)  # beyond float32, in which the gradients are
    with pytest.raises(NonFiniteError, match="Non-finite gradients to MoCo: what is projected holds NaN") as caught:
        mtlkit.backward(losses, strategy=MoCo(2), features=made, shared=layer, preference=preference)
    assert caught.value.what == "gradient"
