"""Dual balancing against algorithm 1 of Lin et al. (2023): averages of log gradients, made equally long."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import DBMTL


class Direct:
    """The algorithm, on gradients of log losses."""

    def __init__(self, beta):
        self.beta, self.averages = beta, {}

    def direction(self, losses, rows, tasks=None):
        for place, task in enumerate(range(len(rows)) if tasks is None else tasks):
            log_gradient = rows[place] / losses[place]
            self.averages[task] = self.beta * self.averages.get(task, 0.0) + (1 - self.beta) * log_gradient
        chosen = [self.averages[task] for task in (range(len(rows)) if tasks is None else tasks)]
        norms = [np.linalg.norm(each) for each in chosen]
        return max(norms) * sum(each / norm for each, norm in zip(chosen, norms, strict=True) if norm)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_a_run_follows_the_algorithm(network, beta):
    model, strategy, direct = network(3, seed=28), DBMTL(3, beta=beta), Direct(beta)
    for _ in range(6):
        dense = model.dense()
        expected = direct.direction(dense.losses.numpy(), dense.rows.numpy())
        measured = model.backward(strategy)
        model.assert_shared(torch.from_numpy(expected))
        model.assert_heads(1 / dense.losses, dense)  # d log L_i
        torch.testing.assert_close(measured.weights, 1 / dense.losses)
        model.step(0.1)


def test_the_gradients_averaged_are_those_of_the_logarithms(network):
    model, strategy = network(2), DBMTL(2, beta=0.0)
    logs = torch.stack(model.losses(model.encoder(model.rows))).log()
    expected = [
        torch.cat([part.flatten() for part in torch.autograd.grad(each, model.encoder.parameters(), retain_graph=True)])
        for each in logs
    ]
    model.backward(strategy)
    torch.testing.assert_close(strategy.averages.values, torch.stack(expected))


@settings(max_examples=15, deadline=None)
@given(factors=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
def test_the_scale_of_a_loss_changes_nothing(network, factors):
    plain, scaled = network(3), network(3, scales=factors)
    strategies = DBMTL(3), DBMTL(3)
    for _ in range(3):
        for model, strategy in zip((plain, scaled), strategies, strict=True):
            model.backward(strategy)
        for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-12)
        plain.step()
        scaled.step()


def test_the_averages_begin_at_0():
    """The first gradient is one among those averaged, and no larger part of them than the others."""
    strategy, ones = DBMTL(2, beta=0.5), torch.ones(2, dtype=torch.float64)
    strategy.combine(ones, torch.tensor([[4.0, 0.0], [0.0, 4.0]], dtype=torch.float64))
    answer = strategy.combine(ones, torch.tensor([[4.0, 0.0], [4.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(strategy.averages.values, torch.tensor([[3.0, 0.0], [2.0, 1.0]]).double())
    expected = 3.0 * (torch.tensor([1.0, 0.0]) + torch.tensor([2.0, 1.0]) / 5**0.5)
    torch.testing.assert_close(answer.direction, expected.double())


def test_all_gradients_are_made_as_long_as_the_longest():
    rows = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    answer = DBMTL(3, beta=0.0).combine(torch.ones(3).double(), rows)
    torch.testing.assert_close(answer.direction, torch.tensor([3.0, 3.0, 3.0]).double())


def test_a_task_that_is_absent_keeps_its_average(network):
    model, strategy, direct = network(3, seed=28), DBMTL(3, beta=0.7), Direct(0.7)
    for tasks in ([0, 1], [2, 0], [0, 1, 2], [1]):
        dense = model.dense(tasks)
        expected = direct.direction(dense.losses.numpy(), dense.rows.numpy(), tasks)
        model.backward(strategy, tasks)
        model.assert_shared(torch.from_numpy(expected))
        model.assert_heads(1 / dense.losses, dense, tasks)
        model.step()
    assert strategy.averages.counts.tolist() == [3.0, 3.0, 2.0]


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_norms_whose_squares_leave_float32_are_norms_still(size):
    rows = torch.tensor([[size, 0.0], [0.0, 1.0]])
    found = DBMTL(2, beta=0.0).combine(torch.ones(2).double(), rows).direction
    longest = max(size, 1.0)
    torch.testing.assert_close(found, torch.tensor([longest, longest]))


def test_a_zero_gradient_adds_nothing():
    rows = torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    assert DBMTL(2, beta=0.0).combine(torch.ones(2).double(), rows).direction.tolist() == [0.0, 2.0]


def test_evaluation_averages_nothing():
    strategy = DBMTL(2)
    rows = torch.eye(2, dtype=torch.float64)
    strategy.combine(torch.ones(2).double(), rows)
    before = strategy.averages.values.clone()
    strategy.eval()
    strategy.combine(torch.ones(2).double(), 5 * rows)
    assert torch.equal(strategy.averages.values, before)
    assert strategy.averages.counts.tolist() == [1.0, 1.0]


def test_what_is_shared_must_stay_the_same():
    strategy = DBMTL(2)
    strategy.combine(torch.ones(2).double(), torch.eye(2).double())
    with pytest.raises(ValueError, match="have 3 entries, and had 2 before"):
        strategy.combine(torch.ones(2).double(), torch.ones(2, 3).double())
