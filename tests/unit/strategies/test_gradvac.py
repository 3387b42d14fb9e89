"""Gradient vaccine against algorithm 1 and equation 3 of Wang et al. (ICLR 2021), on the gradients themselves."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import GradVac, PCGrad

SEEDS = st.integers(0, 2**32 - 1)


def vaccinated(gradients, goals, orders, beta):
    """Return sum_i g'_i for one order of the others for each task, and the goals afterwards."""
    goals, total = goals.copy(), np.zeros(gradients.shape[1])
    for i, order in enumerate(orders):
        changed = gradients[i].copy()
        for j in order:
            other = gradients[j]
            norm, other_norm = np.linalg.norm(changed), np.linalg.norm(other)
            phi, goal = changed @ other / norm / other_norm, goals[i, j]
            if phi < goal:
                sine, goal_sine = math.sqrt(1 - phi**2), math.sqrt(1 - goal**2)
                changed = changed + norm * (goal * sine - phi * goal_sine) / (other_norm * goal_sine) * other
            goals[i, j] = (1 - beta) * goal + beta * phi
        total += changed
    return total, goals


def all_orders(n_tasks):
    each = [list(itertools.permutations([j for j in range(n_tasks) if j != i])) for i in range(n_tasks)]
    return list(itertools.product(*each))


def weights_of(strategy, gradients, tasks=None):
    rows = torch.from_numpy(gradients)
    losses = torch.ones(len(rows), dtype=torch.float64)
    return strategy.weights(losses, rows @ rows.T, None if tasks is None else torch.tensor(tasks)).weights.numpy()


def walk(seed, n_tasks, steps):
    """Yield gradients that change from step to step."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n_tasks, 5))
    for _ in range(steps):
        yield (base + 0.7 * rng.normal(size=base.shape)) * np.exp(rng.normal(size=(n_tasks, 1)))


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, beta=st.sampled_from([0.0, 0.01, 0.5]))
def test_two_tasks_follow_the_algorithm_step_by_step(seed, beta):
    strategy, goals = GradVac(2, beta=beta, seed=0), np.zeros((2, 2))
    for gradients in walk(seed, 2, 12):
        expected, goals = vaccinated(gradients, goals, [[1], [0]], beta)
        np.testing.assert_allclose(weights_of(strategy, gradients) @ gradients, expected, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(strategy.goals, goals, atol=1e-12)


def test_three_tasks_follow_it_in_one_of_the_orders():
    strategy, goals, met = GradVac(3, beta=0.3, seed=0), np.zeros((3, 3)), set()
    for gradients in walk(1, 3, 25):
        direction = weights_of(strategy, gradients) @ gradients
        found = [
            (orders, after)
            for orders in all_orders(3)
            for total, after in [vaccinated(gradients, goals, orders, 0.3)]
            if np.allclose(total, direction, rtol=1e-9) and np.allclose(after, strategy.goals, atol=1e-12)
        ]
        assert found
        met |= {orders for orders, _ in found[:1] if len(found) == 1}
        goals = found[0][1]
    assert len(met) > 3


def test_a_run_is_that_of_the_algorithm(network):
    model, strategy, goals = network(2, seed=3), GradVac(2, beta=0.2, seed=0), np.zeros((2, 2))
    changed = 0
    for _ in range(8):
        dense = model.dense()
        expected, goals = vaccinated(dense.rows.numpy(), goals, [[1], [0]], 0.2)
        weights = model.backward(strategy).weights
        model.assert_shared(torch.from_numpy(expected))
        model.assert_heads(weights, dense)
        changed += weights.tolist() != [1.0, 1.0]
        model.step(0.3)
    assert changed
    np.testing.assert_allclose(strategy.goals, goals, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, goal=st.floats(-0.9, 0.9))
def test_a_changed_gradient_has_the_goal_for_its_cosine(seed, goal):
    """What equation 3 is for, seen with a second gradient that is not itself to be changed."""
    first, second = np.random.default_rng(seed).normal(size=(2, 4))
    strategy = GradVac(2, beta=0.0)
    strategy.goals[0, 1], strategy.goals[1, 0] = goal, -1.0
    weights = weights_of(strategy, np.stack([first, second]))
    changed = first + (weights[1] - 1) * second
    cosine = changed @ second / np.linalg.norm(changed) / np.linalg.norm(second)
    before = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    np.testing.assert_allclose(cosine, max(goal, before), atol=1e-7)
    assert weights[0] == 1.0


def test_with_goals_of_0_it_is_pcgrad():
    for gradients in walk(4, 3, 10):
        np.testing.assert_allclose(
            weights_of(GradVac(3, beta=0.0, seed=6), gradients), weights_of(PCGrad(3, seed=6), gradients), rtol=1e-9
        )


def test_tasks_that_are_absent_keep_their_goals():
    strategy, goals = GradVac(3, beta=0.5, seed=0), np.zeros((3, 3))
    rng = np.random.default_rng(0)
    strategy.goals.copy_(torch.from_numpy(rng.uniform(-0.5, 0.5, size=(3, 3))))
    goals = strategy.goals.numpy().copy()
    gradients = rng.normal(size=(2, 4))
    between = goals[np.ix_([2, 0], [2, 0])]
    expected, after = vaccinated(gradients, between, [[1], [0]], 0.5)
    np.testing.assert_allclose(weights_of(strategy, gradients, [2, 0]) @ gradients, expected, rtol=1e-9)
    goals[np.ix_([2, 0], [2, 0])] = after
    np.testing.assert_allclose(strategy.goals, goals, atol=1e-12)


def test_evaluation_moves_no_goal():
    strategy = GradVac(2, beta=0.5).eval()
    weights_of(strategy, np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert not strategy.goals.any()


def test_a_zero_gradient_has_no_cosine():
    strategy = GradVac(2, beta=0.5)
    assert weights_of(strategy, np.array([[1.0, 0.0], [0.0, 0.0]])).tolist() == [1.0, 1.0]
    assert not strategy.goals.any()
