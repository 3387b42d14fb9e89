"""ConFIG against equations 2 and 3 of Liu, Chu and Thuerey (ICLR 2025), on dense gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import ConFIG

SEEDS = st.integers(0, 2**32 - 1)


def conflict_free(gradients):
    """Return (sum_i g_i . v) v with v the unit vector along pinv(U) 1, U of the unit gradients as rows."""
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    v = np.linalg.pinv(units, rcond=1e-9) @ np.ones(len(units))
    v /= np.linalg.norm(v)
    return (gradients @ v).sum() * v


def random_gradients(seed, n_tasks, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, **options):
    rows = torch.from_numpy(gradients)
    return ConFIG(len(rows), **options).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_direction_is_that_of_the_pseudo_inverse(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    expected = conflict_free(gradients)
    np.testing.assert_allclose(
        weights_of(gradients) @ gradients, expected, rtol=1e-6, atol=1e-7 * np.linalg.norm(expected)
    )


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(2, 6))
def test_it_has_one_angle_with_every_gradient_and_hurts_none(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    direction = weights_of(gradients) @ gradients
    cosines = gradients @ direction / np.linalg.norm(gradients, axis=1) / np.linalg.norm(direction)
    np.testing.assert_allclose(cosines, cosines.mean(), atol=1e-6)
    assert (cosines > 0).all()
    # It is as long as the gradients agree with it.
    agreement = (gradients @ direction).sum() / np.linalg.norm(direction)
    assert np.linalg.norm(direction) == pytest.approx(agreement, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.lists(st.floats(0.1, 10), min_size=2, max_size=5))
def test_with_a_preference_the_cosines_are_in_its_proportion(seed, preference):
    gradients = random_gradients(seed, len(preference))
    direction = weights_of(gradients, preference=preference) @ gradients
    cosines = gradients @ direction / np.linalg.norm(gradients, axis=1) / np.linalg.norm(direction)
    np.testing.assert_allclose(cosines / cosines.sum(), np.array(preference) / sum(preference), atol=1e-5)
    agreement = (gradients @ direction).sum() / np.linalg.norm(direction)
    assert np.linalg.norm(direction) == pytest.approx(agreement, rel=1e-6)


def test_preferences_that_are_equal_change_nothing():
    gradients = random_gradients(4, 3)
    np.testing.assert_allclose(weights_of(gradients, preference=[7.0, 7.0, 7.0]), weights_of(gradients), rtol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, factor=st.floats(1e-3, 1e3))
def test_the_scale_of_a_loss_does_not_turn_the_direction(seed, factor):
    gradients = random_gradients(seed, 3)
    before = weights_of(gradients) @ gradients
    gradients[1] *= factor
    after = weights_of(gradients) @ gradients
    np.testing.assert_allclose(after / np.linalg.norm(after), before / np.linalg.norm(before), atol=1e-6)


def test_of_equal_gradients_it_is_their_sum():
    gradients = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    np.testing.assert_allclose(weights_of(gradients) @ gradients, [3.0, 6.0])


def test_a_run_follows_the_equations(network):
    model, strategy = network(3, seed=28), ConFIG(3)
    for _ in range(4):
        dense = model.dense()
        model.backward(strategy)
        model.assert_shared(torch.from_numpy(conflict_free(dense.rows.numpy())), rtol=1e-8)
        model.assert_heads([1.0] * 3, dense)
        model.step()


def test_a_head_never_climbs_its_own_loss(network):
    """A weight may be negative, which is no weight for what a task has to itself."""
    model = network(4, seed=3)
    dense = model.dense()
    assert model.backward(ConFIG(4)).weights.min() < 0
    model.assert_heads([1.0] * 4, dense)


def test_tasks_that_are_absent_take_no_part(network):
    model = network(3, seed=28)
    dense = model.dense([2, 0])
    model.backward(ConFIG(3), [2, 0])
    model.assert_shared(torch.from_numpy(conflict_free(dense.rows.numpy())))
    model.assert_heads([1.0, 1.0], dense, [2, 0])


def test_tasks_that_are_absent_keep_their_preference(network):
    model = network(3, seed=28)
    dense = model.dense([2, 0])
    weights = model.backward(ConFIG(3, preference=[1.0, 5.0, 3.0]), [2, 0]).weights
    np.testing.assert_allclose(weights, weights_of(dense.rows.numpy(), preference=[3.0, 1.0]), rtol=1e-6)


def test_one_preference_for_each_task():
    with pytest.raises(ValueError, match="one number for each of the 2 tasks; received 1"):
        ConFIG(2, preference=[1.0])


@pytest.mark.parametrize("options", [{}, {"preference": [1.0, 9.0, 1.0]}])
def test_a_zero_gradient_takes_no_part(options):
    gradients = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    weights = weights_of(gradients, **options)
    assert weights[1] == 0
    np.testing.assert_allclose(weights @ gradients, conflict_free(gradients[[0, 2]]))


def test_opposite_gradients_have_no_direction_in_common():
    for gradients in (np.array([[1.0, 0.0], [-2.0, 0.0]]), np.zeros((2, 2))):
        np.testing.assert_allclose(weights_of(gradients) @ gradients, 0, atol=1e-12)


def test_beside_opposite_gradients_a_third_is_served():
    gradients = np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(weights_of(gradients) @ gradients, [0.0, 3.0], atol=1e-9)


@pytest.mark.parametrize("noise", [1e-16, 1e-8, 3e-7])
def test_parallel_gradients_share_as_one_whatever_the_rounding(noise):
    """Cosines of float32 gradients are off by some 1e-7, which must not be taken for a difference between them."""
    gradients = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0]])
    exact, off = torch.from_numpy(gradients @ gradients.T), np.random.default_rng(0)
    strategy, losses = ConFIG(3), torch.ones(3).double()
    expected = conflict_free(gradients)
    for _ in range(50):
        change = 1 + noise * off.uniform(-1, 1, size=(3, 3))
        weights = strategy.weights(losses, exact * torch.from_numpy((change + change.T) / 2)).weights.numpy()
        np.testing.assert_allclose(weights @ gradients, expected, atol=1e-5)
        assert (weights > 0).all()
