"""PCGrad against algorithm 1 of Yu et al. (NeurIPS 2020), on the gradients themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import PCGrad

SEEDS = st.integers(0, 2**32 - 1)


def projected(gradients, orders):
    """Return sum_i gh_i for one order of the others for each task."""
    total = np.zeros(gradients.shape[1])
    for i, order in enumerate(orders):
        changed = gradients[i].copy()
        for j in order:
            if changed @ gradients[j] < 0:
                changed -= changed @ gradients[j] / (gradients[j] @ gradients[j]) * gradients[j]
        total += changed
    return total


def all_orders(n_tasks):
    """Return every way to give each task an order of the others."""
    each = [list(itertools.permutations([j for j in range(n_tasks) if j != i])) for i in range(n_tasks)]
    return list(itertools.product(*each))


def conflicting(seed, n_tasks, size=6):
    """Return gradients of which every two conflict somewhat, of unlike lengths."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n_tasks, size))
    gradients -= 0.9 * gradients.mean(0)
    return gradients * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(strategy, gradients, tasks=None):
    rows = torch.from_numpy(gradients)
    losses = torch.ones(len(rows), dtype=torch.float64)
    return strategy.weights(losses, rows @ rows.T, None if tasks is None else torch.tensor(tasks)).weights.numpy()


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_two_gradients_are_projected_on_each_others_normal_plane(seed):
    gradients = conflicting(seed, 2)
    np.testing.assert_allclose(
        weights_of(PCGrad(2, seed=seed), gradients) @ gradients, projected(gradients, [[1], [0]]), atol=1e-9
    )


def test_a_run_is_that_of_the_algorithm_for_some_order(network):
    model, strategy, met = network(3, seed=28), PCGrad(3, seed=0), 0
    for _ in range(6):
        dense = model.dense()
        gradients = dense.rows.numpy()
        met += bool((np.triu(gradients @ gradients.T, 1) < 0).any())
        weights = model.backward(strategy).weights
        direction = model.shared_gradient.numpy()
        assert any(np.allclose(direction, projected(gradients, each), rtol=1e-9, atol=1e-12) for each in all_orders(3))
        model.assert_heads(weights, dense)
        model.step()
    assert met > 2


def test_every_order_comes_about_equally_often():
    gradients = conflicting(1, 3)
    directions = np.stack([projected(gradients, orders) for orders in all_orders(3)])  # [8, P]
    assert min(np.abs(a - b).max() for a, b in itertools.combinations(directions, 2)) > 1e-3  # they can be told apart
    strategy, counts = PCGrad(3, seed=0), np.zeros(8)
    for _ in range(1600):
        direction = weights_of(strategy, gradients) @ gradients
        (which,) = np.flatnonzero(np.isclose(directions, direction, atol=1e-9).all(1))
        counts[which] += 1
    assert np.abs(counts - 200).max() < 60  # over four standard deviations


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_four_tasks_are_projected_in_one_of_the_orders(seed):
    gradients = conflicting(seed, 4)
    weights = weights_of(PCGrad(4, seed=seed), gradients)
    # What each task's gradient may become; the sum is over one choice for each.
    each = [
        [
            projected(gradients, [[]] * i + [order] + [[]] * (3 - i))
            for order in itertools.permutations({*range(4)} - {i})
        ]
        for i in range(4)
    ]
    others = gradients.sum(0)
    changes = [np.stack([choice - others for choice in choices]) for choices in each]
    sums = changes[0][:, None, None, None] + changes[1][:, None, None] + changes[2][:, None] + changes[3]
    assert np.abs(sums + others - weights @ gradients).max(-1).min() < 1e-9


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_without_conflicts_it_is_the_plain_sum(seed):
    gradients = np.abs(np.random.default_rng(seed).normal(size=(4, 5)))
    assert weights_of(PCGrad(4, seed=0), gradients).tolist() == [1.0] * 4


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(2, 6))
def test_no_weight_is_below_1(seed, n_tasks):
    """A projection adds of the other gradient, never takes."""
    assert (weights_of(PCGrad(n_tasks, seed=seed), conflicting(seed, n_tasks)) >= 1).all()


def test_of_two_the_direction_hurts_neither():
    for seed in range(20):
        gradients = conflicting(seed, 2)
        assert (gradients @ (weights_of(PCGrad(2), gradients) @ gradients) >= -1e-12).all()


def test_the_order_of_two_tasks_does_not_depend_on_a_third():
    gradients = conflicting(3, 2)
    np.testing.assert_allclose(
        weights_of(PCGrad(5, seed=0), gradients, [3, 1]) @ gradients, projected(gradients, [[1], [0]]), atol=1e-9
    )


def test_tasks_that_are_absent_take_no_part(network):
    model = network(4, seed=1)
    dense = model.dense([3, 0, 1])
    model.backward(PCGrad(4, seed=0), [3, 0, 1])
    found = model.shared_gradient.numpy()
    assert any(np.allclose(found, projected(dense.rows.numpy(), each), rtol=1e-9) for each in all_orders(3))


def test_a_zero_gradient_is_met_by_no_one():
    gradients = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    expected = projected(gradients[[0, 2]], [[1], [0]])
    np.testing.assert_allclose(weights_of(PCGrad(3), gradients) @ gradients, expected, atol=1e-12)


def test_opposite_gradients_vanish():
    gradients = np.array([[1.0, 0.0], [-3.0, 0.0]])
    np.testing.assert_allclose(weights_of(PCGrad(2), gradients) @ gradients, 0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_the_orders_go_on_in_training_alone(training):
    gradients = conflicting(1, 3)
    strategy = PCGrad(3, seed=0).train(training)
    found = {tuple(weights_of(strategy, gradients).round(9)) for _ in range(20)}
    assert (len(found) > 1) == training
