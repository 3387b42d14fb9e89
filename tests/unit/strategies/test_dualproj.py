"""The projected mean gradient of GEM (Lopez-Paz, Ranzato, NeurIPS 2017), by non-negative least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from mtlkit.strategies import DualProj

SEEDS = st.integers(0, 2**32 - 1)


def projected(gradients, preference=None):
    """Return the point nearest to the mean gradient, or to a sum with a preference, with g_i . d >= 0 for all i."""
    wanted = gradients.mean(0) if preference is None else np.asarray(preference) @ gradients
    multipliers, _ = optimize.nnls(gradients.T, -wanted)
    return wanted + multipliers @ gradients


def random_gradients(seed, n_tasks, size=7):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n_tasks, size))
    return (gradients - 0.7 * gradients.mean(0)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, **options):
    rows = torch.from_numpy(gradients)
    return DualProj(len(rows), **options).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_direction_is_the_projection_of_the_mean(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    longest = np.linalg.norm(gradients, axis=1).max()
    np.testing.assert_allclose(weights_of(gradients) @ gradients, projected(gradients), atol=1e-7 * longest)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.1, 10), min_size=2, max_size=5))
def test_a_preference_says_which_sum_is_projected(seed, preference):
    gradients = random_gradients(seed, len(preference))
    longest = np.linalg.norm(gradients, axis=1).max()
    direction = weights_of(gradients, preference=preference) @ gradients
    np.testing.assert_allclose(direction, projected(gradients, preference), atol=1e-6 * longest)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(2, 8))
def test_it_hurts_no_task_and_is_the_nearest_that_does_not(seed, n_tasks):
    """KKT: w >= 1/K, M w >= 0, and each task with g_i . d > 0 keeps the weight 1/K."""
    gradients = random_gradients(seed, n_tasks)
    weights = weights_of(gradients)
    gains = gradients @ (weights @ gradients)
    slack = 1e-8 * np.linalg.norm(gradients, axis=1) * np.linalg.norm(gradients, axis=1).max()
    assert (gains >= -slack).all()
    assert (weights >= 1 / n_tasks - 1e-12).all()
    moved = weights > 1 / n_tasks + 1e-6
    assert (np.abs(gains[moved]) <= slack[moved]).all()


def test_without_conflicts_it_is_the_mean_gradient():
    gradients = np.abs(np.random.default_rng(0).normal(size=(4, 5)))
    np.testing.assert_allclose(weights_of(gradients), 1 / 4)


def test_a_conflict_that_the_mean_does_not_have_is_none():
    gradients = np.array([[1.0, 0.0], [-0.1, 1.0]])
    np.testing.assert_allclose(weights_of(gradients), [0.5, 0.5])


def test_a_run_takes_the_projection(network):
    model, strategy = network(3, seed=28, scales=[5.0, 1.0, 1.0]), DualProj(3)
    changed = 0
    for tasks in (None, None, [2, 0]):
        dense = model.dense(tasks)
        weights = model.backward(strategy, tasks).weights
        model.assert_shared(torch.from_numpy(projected(dense.rows.numpy())), rtol=1e-7, atol=1e-9)
        model.assert_heads(weights, dense, tasks)
        changed += not np.allclose(weights, 1 / len(weights))
        model.step(0.01)
    assert changed


def test_tasks_that_are_absent_keep_their_preference(network):
    model, strategy = network(3, seed=28, scales=[5.0, 1.0, 1.0]), DualProj(3, preference=[0.2, 0.5, 0.3])
    dense = model.dense([2, 0])
    model.backward(strategy, [2, 0])
    model.assert_shared(torch.from_numpy(projected(dense.rows.numpy(), [0.3, 0.2])), rtol=1e-7, atol=1e-9)


def test_one_preference_for_each_task():
    with pytest.raises(ValueError, match="one number for each of the 2 tasks; received 3"):
        DualProj(2, preference=[1.0, 1.0, 1.0])
