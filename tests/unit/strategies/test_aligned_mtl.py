"""Aligned-MTL against the singular value decomposition of the gradients (Senushkin et al., CVPR 2023)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import AlignedMTL

SEEDS = st.integers(0, 2**32 - 1)


def aligned(gradients):
    """Return the gradients with every singular value made the least: sigma_min U V', rows again."""
    left, sigma, right = np.linalg.svd(gradients, full_matrices=False)
    kept = sigma > 1e-9 * sigma.max()
    return sigma[kept].min() * left[:, kept] @ right[kept]


def random_gradients(seed, n_tasks, size=7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gramian, preference=None):
    n_tasks = len(gramian)
    losses = torch.ones(n_tasks, dtype=torch.float64)
    return AlignedMTL(n_tasks, preference=preference).weights(losses, torch.as_tensor(gramian)).weights.numpy()


def weights_for(gradients, preference=None):
    return weights_of(gradients @ gradients.T, preference)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_direction_is_the_mean_of_the_aligned_gradients(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    found = weights_for(gradients) @ gradients
    np.testing.assert_allclose(found, aligned(gradients).mean(0), rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.1, 10), min_size=3, max_size=3))
def test_a_preference_weighs_the_aligned_gradients(seed, preference):
    gradients = random_gradients(seed, 3)
    found = weights_for(gradients, preference) @ gradients
    np.testing.assert_allclose(found, preference @ aligned(gradients), rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_the_aligned_system_has_condition_number_1(seed):
    """Columns of the matrix that maps a preference to weights, found from preferences that span."""
    gradients = random_gradients(seed, 3)
    spanning = np.ones((3, 3)) + np.eye(3)
    maps = np.linalg.solve(spanning, np.stack([weights_for(gradients, list(each)) for each in spanning]))
    system = maps @ gradients
    assert np.linalg.cond(gradients) > 1.01
    np.testing.assert_allclose(np.linalg.svd(system)[1], np.linalg.svd(gradients)[1].min(), rtol=1e-6)


def test_orthogonal_gradients_become_equally_long():
    gradients = np.diag([1.0, 5.0, 20.0])
    np.testing.assert_allclose(weights_for(gradients), [1 / 3, 1 / 15, 1 / 60])


def test_a_run_is_that_of_the_decomposition(network):
    model, strategy = network(3, seed=28), AlignedMTL(3)
    for _ in range(4):
        dense = model.dense()
        model.backward(strategy)
        model.assert_shared(torch.from_numpy(aligned(dense.rows.numpy()).mean(0)), rtol=1e-8)
        model.assert_heads([1.0] * 3, dense)
        model.step()


@pytest.mark.parametrize("preference", [None, [1.0, 3.0, 0.5]])
def test_tasks_that_are_absent_take_no_part(network, preference):
    model = network(3, seed=28)
    dense = model.dense([2, 0])
    chosen = np.array([0.5, 0.5] if preference is None else [0.5, 1.0])
    model.backward(AlignedMTL(3, preference=preference), [2, 0])
    model.assert_shared(torch.from_numpy(chosen @ aligned(dense.rows.numpy())), rtol=1e-8)
    model.assert_heads([1.0, 1.0], dense, [2, 0])


def test_a_head_never_climbs_its_own_loss(network):
    """A weight may be negative, which is no weight for what a task has to itself."""
    model = network(4, seed=9, scales=[1.0, 1.0, 30.0, 1.0])
    dense = model.dense()
    assert model.backward(AlignedMTL(4)).weights.min() < 0
    model.assert_heads([1.0] * 4, dense)


def test_dependent_gradients_are_aligned_where_they_are():
    gradients = np.array([[1.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    np.testing.assert_allclose(weights_for(gradients) @ gradients, aligned(gradients).mean(0), atol=1e-9)


@pytest.mark.parametrize("noise", [1e-16, 1e-8, 3e-7])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_parallel_gradients_share_as_one_whatever_the_rounding(noise, scale):
    """Products of float32 gradients are off by some 1e-7, which must not be taken for the least singular value."""
    gradients = np.array([[1.0, 0.0], [3.0, 0.0], [scale, 2 * scale]])
    exact, off = gradients @ gradients.T, np.random.default_rng(0)
    expected = aligned(gradients).mean(0)
    for _ in range(50):
        change = 1 + noise * off.uniform(-1, 1, size=(3, 3))
        found = weights_of(exact * (change + change.T) / 2) @ gradients
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


@pytest.mark.parametrize("ratio", [1e-6, 1e-3, 1e3, 1e6])
def test_a_short_gradient_is_not_taken_for_rounding(ratio):
    gradients = np.array([[1.0, 0.0], [0.6 * ratio, 0.8 * ratio]])
    np.testing.assert_allclose(weights_for(gradients) @ gradients, aligned(gradients).mean(0), rtol=1e-3)


def test_zero_gradients_keep_the_preference():
    np.testing.assert_allclose(weights_for(np.zeros((2, 3))), [0.5, 0.5])


def test_one_preference_for_each_task():
    with pytest.raises(ValueError, match="one number for each of the 2 tasks; received 1"):
        AlignedMTL(2, preference=[1.0])
