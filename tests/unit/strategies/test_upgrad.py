"""UPGrad against projections on the dual cone (Quinton, Rey, 2024), by non-negative least squares on the gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from mtlkit.strategies import UPGrad

SEEDS = st.integers(0, 2**32 - 1)


def projected(gradients, vector):
    """Return the point nearest to a vector with g_i . d >= 0 for all i: the vector plus a combination x >= 0."""
    multipliers, _ = optimize.nnls(gradients.T, -vector)
    return vector + multipliers @ gradients


def unconflicting(gradients, preference=None):
    return np.average([projected(gradients, each) for each in gradients], axis=0, weights=preference)


def random_gradients(seed, n_tasks, size=7):
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n_tasks, size))
    return (gradients - 0.7 * gradients.mean(0)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, **options):
    rows = torch.from_numpy(gradients)
    return UPGrad(len(rows), **options).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_direction_is_the_mean_of_the_projections(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    longest = np.linalg.norm(gradients, axis=1).max()
    np.testing.assert_allclose(weights_of(gradients) @ gradients, unconflicting(gradients), atol=1e-7 * longest)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.1, 10), min_size=2, max_size=5))
def test_a_preference_weighs_the_projections(seed, preference):
    gradients = random_gradients(seed, len(preference))
    longest = np.linalg.norm(gradients, axis=1).max()
    direction = weights_of(gradients, preference=preference) @ gradients
    expected = sum(preference) * unconflicting(gradients, preference)
    np.testing.assert_allclose(direction, expected, atol=1e-6 * longest)
    assert (gradients @ direction >= -1e-6 * longest * np.linalg.norm(gradients, axis=1)).all()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(2, 8))
def test_it_hurts_no_task(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    direction = weights_of(gradients) @ gradients
    slack = 1e-8 * np.linalg.norm(gradients, axis=1) * np.linalg.norm(gradients, axis=1).max()
    assert (gradients @ direction >= -slack).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_the_conditions_of_the_minima_hold(seed):
    """KKT, K w = sum_i v_i with v_i >= e_i: w >= 1/K, and M v_i >= 0. Where no v_i moves, the weight is 1/K."""
    gradients = random_gradients(seed, 4)
    weights = weights_of(gradients)
    assert (weights >= 1 / 4 - 1e-12).all()
    shares = [optimize.nnls(gradients.T, -each)[0] for each in gradients]
    np.testing.assert_allclose(weights, 1 / 4 + np.mean(shares, axis=0), rtol=1e-5, atol=1e-6)


def test_without_conflicts_it_is_the_mean_gradient():
    gradients = np.abs(np.random.default_rng(0).normal(size=(4, 5)))
    np.testing.assert_allclose(weights_of(gradients), 1 / 4)


def test_opposite_gradients_project_on_0():
    gradients = np.array([[1.0, 0.0], [-3.0, 0.0]])
    np.testing.assert_allclose(weights_of(gradients) @ gradients, 0, atol=1e-9)


def test_the_scale_of_a_loss_scales_its_projection_alone():
    """Linear under scaling: a long gradient does not drown what a short one asks for."""
    gradients = random_gradients(5, 3)
    scaled = np.array([[1.0], [10.0], [0.1]]) * gradients
    expected = np.mean([s * projected(gradients, g) for s, g in zip([1.0, 10.0, 0.1], gradients, strict=True)], axis=0)
    np.testing.assert_allclose(weights_of(scaled) @ scaled, expected, atol=1e-7)


@pytest.mark.parametrize("preference", [None, [0.2, 0.5, 0.3]])
def test_a_run_takes_the_mean_of_the_projections(network, preference):
    model, strategy = network(3, seed=28), UPGrad(3, preference=preference)
    for tasks in (None, None, [2, 0]):
        dense = model.dense(tasks)
        weights = model.backward(strategy, tasks).weights
        chosen = preference and [preference[task] for task in tasks or range(3)]
        expected = unconflicting(dense.rows.numpy(), chosen) * (sum(chosen) if chosen else 1)
        model.assert_shared(torch.from_numpy(expected), rtol=1e-7, atol=1e-9)
        model.assert_heads(weights, dense, tasks)
        model.step()


def test_one_preference_for_each_task():
    with pytest.raises(ValueError, match="one number for each of the 2 tasks; received 1"):
        UPGrad(2, preference=[1.0])
