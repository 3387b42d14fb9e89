"""SDMGrad against min over the simplex of 0.5 ||g_w + lambda g_0||^2 (Xiao, Ban, Ji, NeurIPS 2023)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import MGDA, SDMGrad

SEEDS = st.integers(0, 2**32 - 1)


def direction_of(gradients, lam, preference=None):
    """Return (g_w + lambda g_0) / (1 + lambda): of all faces' affine minima that lie inside, the shortest."""
    held = lam * (gradients.mean(0) if preference is None else np.asarray(preference) @ gradients)
    best = None
    for size in range(1, len(gradients) + 1):
        for face in map(list, itertools.combinations(range(len(gradients)), size)):
            edges = gradients[face[1:]] - gradients[face[0]]
            steps = np.linalg.lstsq(edges.T, -gradients[face[0]] - held, rcond=None)[0]
            weights = np.array([1 - steps.sum(), *steps])
            if (weights >= -1e-12).all():
                sum_ = weights @ gradients[face] + held
                if best is None or np.linalg.norm(sum_) < np.linalg.norm(best) - 1e-13:
                    best = sum_
    return best / (1 + lam)


def random_gradients(seed, n_tasks, size=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, lam, **options):
    rows = torch.from_numpy(gradients)
    return SDMGrad(len(rows), lam=lam, **options).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 5), st.sampled_from([0.0, 0.3, 3.0]))
def test_the_direction_is_that_of_the_minimum(seed, n_tasks, lam):
    gradients = random_gradients(seed, n_tasks)
    weights = weights_of(gradients, lam)
    np.testing.assert_allclose(weights @ gradients, direction_of(gradients, lam), atol=1e-6)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0, 10))
def test_the_conditions_of_the_minimum_hold(seed, lam):
    """KKT: g_i . (g_w + lambda g_0) is least, and equal, where w is not 0."""
    gradients = random_gradients(seed, 5)
    weights = weights_of(gradients, lam)
    products = gradients @ (weights @ gradients)
    w = (1 + lam) * weights - lam / 5
    slack = 1e-8 * (gradients**2).sum(1).max()
    assert (w >= -1e-12).all()
    np.testing.assert_allclose(products[w > 1e-6], products.min(), atol=slack)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.05, 2), min_size=2, max_size=4), st.sampled_from([0.3, 3.0]))
def test_a_preference_says_near_to_which_sum(seed, preference, lam):
    gradients = random_gradients(seed, len(preference))
    direction = weights_of(gradients, lam, preference=preference) @ gradients
    np.testing.assert_allclose(direction, direction_of(gradients, lam, preference), atol=1e-5)


def test_with_a_large_lambda_it_is_the_sum_with_the_preference():
    weights = weights_of(random_gradients(1, 3), 1e9, preference=[0.5, 0.2, 0.3])
    np.testing.assert_allclose(weights, [0.5, 0.2, 0.3], atol=1e-8)


def test_with_lambda_of_0_it_is_mgda():
    gradients = random_gradients(1, 4)
    rows = torch.from_numpy(gradients)
    expected = MGDA(4).weights(torch.ones(4).double(), rows @ rows.T).weights
    np.testing.assert_allclose(weights_of(gradients, 0.0), expected, atol=1e-9)


def test_with_a_large_lambda_it_is_the_mean_gradient():
    np.testing.assert_allclose(weights_of(random_gradients(1, 4), 1e9), 1 / 4, atol=1e-8)


@pytest.mark.parametrize(("lam", "preference"), [(0.3, None), (2.0, None), (2.0, [0.7, 0.2, 0.1])])
def test_a_run_takes_the_minimum(network, lam, preference):
    model, strategy = network(3, seed=28), SDMGrad(3, lam=lam, preference=preference)
    for tasks in (None, None, [2, 0]):
        dense = model.dense(tasks)
        weights = model.backward(strategy, tasks).weights
        chosen = preference and [preference[task] for task in tasks or range(3)]
        expected = direction_of(dense.rows.numpy(), lam, chosen)
        model.assert_shared(torch.from_numpy(expected), rtol=1e-7, atol=1e-9)
        model.assert_heads(weights, dense, tasks)
        model.step()
