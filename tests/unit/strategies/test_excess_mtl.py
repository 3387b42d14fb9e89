"""Excess risks against algorithm 1 of He et al. (ICML 2024), with the sums of squares that it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlkit.strategies import ExcessMTL


class Direct:
    """The algorithm: E_i relative to its first value, multiplicative weights."""

    def __init__(self, n_tasks, eta):
        self.eta = eta
        self.w, self.first, self.squares = np.ones(n_tasks), {}, {}

    def weights(self, rows, tasks=None):
        chosen = list(range(len(rows)) if tasks is None else tasks)
        excess = []
        for task, g in zip(chosen, rows, strict=True):
            self.squares[task] = self.squares.get(task, 0) + g**2
            estimate = g @ np.diag(1 / np.sqrt(self.squares[task])) @ g
            excess.append(estimate / self.first.setdefault(task, estimate))
        moved = self.w[chosen] * np.exp(self.eta * np.array(excess))
        self.w[chosen] = self.w[chosen].sum() * moved / moved.sum()
        return self.w[chosen]


@pytest.mark.parametrize("eta", [0.01, 1.0])
def test_a_run_follows_the_algorithm(network, eta):
    model, strategy, direct = network(3), ExcessMTL(3, eta=eta), Direct(3, eta)
    for step in range(6):
        dense = model.dense()
        expected = torch.from_numpy(direct.weights(dense.rows.numpy()))
        measured = model.backward(strategy)
        torch.testing.assert_close(measured.weights, expected, rtol=1e-9, atol=0)
        model.assert_shared(expected @ dense.rows)
        model.assert_heads(expected, dense)
        assert measured.weights.sum().item() == pytest.approx(3)
        assert (step == 0) == np.allclose(expected, 1)
        model.step(0.3)


def test_the_scale_of_a_loss_changes_no_weight(network):
    plain, scaled = network(3), network(3, scales=[1e-3, 1.0, 1e3])
    strategies = ExcessMTL(3, eta=1.0), ExcessMTL(3, eta=1.0)
    for _ in range(4):
        found = [model.backward(each).weights for model, each in zip((plain, scaled), strategies, strict=True)]
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=0)
        plain.step()
        scaled.load_state_dict(plain.state_dict())


def test_the_task_whose_gradient_stays_weighs_more_than_the_one_whose_vanishes():
    strategy, losses = ExcessMTL(2, eta=0.5), torch.ones(2).double()
    for shrink in (1.0, 0.1, 0.01):
        weights = strategy.combine(losses, torch.tensor([[1.0, 0.0], [0.0, shrink]]).double()).weights
    assert weights[0] > 1 > weights[1]


def test_tasks_that_are_absent_keep_their_share_and_their_sums(network):
    model, strategy, direct = network(3), ExcessMTL(3, eta=1.0), Direct(3, 1.0)
    for tasks in ([0, 1, 2], [2, 0], [1], [0, 1, 2], [1, 2]):
        dense = model.dense(tasks)
        expected = torch.from_numpy(direct.weights(dense.rows.numpy(), tasks).copy())
        measured = model.backward(strategy, tasks)
        torch.testing.assert_close(measured.weights, expected, rtol=1e-9, atol=0)
        model.assert_shared(expected @ dense.rows)
        model.step()
    torch.testing.assert_close(strategy.task_weights, torch.from_numpy(direct.w))


def test_the_first_gradient_that_is_not_0_sets_the_scale():
    """A head that begins at 0 sends nothing back at first; what its task is relative to comes after."""
    losses = torch.ones(2).double()
    strategy, direct = ExcessMTL(2, eta=0.1), Direct(2, 0.1)
    first = strategy.combine(losses, torch.tensor([[0.0, 0.0], [100.0, 300.0]]).double()).weights
    torch.testing.assert_close(first, torch.tensor([0.1 * 0, 0.1 * 1]).double().exp() * 2 / (1 + np.exp(0.1)))
    direct.w = first.numpy().copy()
    direct.squares[1] = np.array([100.0, 300.0]) ** 2
    direct.first[1] = 400.0
    for rows in ([[500.0, 700.0], [80.0, 200.0]], [[400.0, 600.0], [70.0, 100.0]]):
        expected = direct.weights(np.array(rows))
        found = strategy.combine(losses, torch.tensor(rows, dtype=torch.float64)).weights
        torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-9, atol=0)


def test_squares_that_leave_float32_do_no_harm():
    strategy, losses = ExcessMTL(2), torch.ones(2).double()
    for _ in range(3):
        weights = strategy.combine(losses, torch.tensor([[1e-25, 0.0], [0.0, 1e25]])).weights
        torch.testing.assert_close(weights, torch.ones(2).double(), rtol=1e-5, atol=0)  # both alike, but for the scale


def test_evaluation_keeps_nothing():
    strategy = ExcessMTL(2).eval()
    strategy.combine(torch.ones(2).double(), torch.eye(2).double())
    assert not strategy.roots.values.any()
    assert strategy.initial.isnan().all()
    assert strategy.task_weights.tolist() == [1.0, 1.0]
