"""The gradient balance of IMTL against the closed form of Liu et al. (ICLR 2021, equation 6), on dense gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mtlkit.strategies import IMTLG, Over

SEEDS = st.integers(0, 2**32 - 1)


def closed_form(gradients):
    """Return the paper's weights: alpha_2.. = g_1 U' (D U')^-1, D of rows g_1 - g_i, U of rows u_1 - u_i; sum 1."""
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    if len(gradients) == 1:
        return np.ones(1)
    differences, unit_differences = gradients[:1] - gradients[1:], units[:1] - units[1:]
    rest = gradients[0] @ unit_differences.T @ np.linalg.inv(differences @ unit_differences.T)
    return np.concatenate([[1 - rest.sum()], rest])


def random_gradients(seed, n_tasks, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients):
    rows = torch.from_numpy(gradients)
    return IMTLG(len(rows)).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


def projections(gradients, direction):
    return gradients @ direction / np.linalg.norm(gradients, axis=1)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_weights_are_those_of_the_closed_form(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    expected = closed_form(gradients)
    assume(np.abs(expected).max() < 1e3)
    climbs = projections(gradients, expected @ gradients)[0] < 0  # then the sum is -1, so that it descends
    np.testing.assert_allclose(weights_of(gradients), -expected if climbs else expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(2, 6))
def test_all_projections_are_equal_and_none_is_negative(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    direction = weights_of(gradients) @ gradients
    found = projections(gradients, direction)
    np.testing.assert_allclose(found, found.mean(), rtol=1e-6, atol=1e-8 * np.linalg.norm(direction))
    assert (found > 0).all()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, factor=st.floats(1e-3, 1e3), which=st.integers(0, 2))
def test_the_scale_of_a_loss_does_not_turn_the_direction(seed, factor, which):
    gradients = random_gradients(seed, 3)
    before = weights_of(gradients) @ gradients
    gradients[which] *= factor
    after = weights_of(gradients) @ gradients
    np.testing.assert_allclose(after / np.linalg.norm(after), before / np.linalg.norm(before), atol=1e-6)


def test_a_closed_form_that_climbs_is_turned_round():
    """A task between the others, with a small gradient: its weight is large and negative, and so is the sum."""
    gradients = np.array([[3.0, 1.0], [3.0, -1.0], [0.1, 0.0]])
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    lifted = np.hstack([gradients, np.linalg.norm(gradients, axis=1, keepdims=True) * [[0.5], [0.5], [0.6]]])
    assert np.linalg.matrix_rank(units) == 2
    expected = closed_form(lifted)
    assert expected @ lifted @ lifted[0] < 0
    np.testing.assert_allclose(weights_of(lifted), -expected, rtol=1e-9)


def test_a_run_has_equal_projections_at_the_features_and_plain_heads(network):
    model, strategy = network(3, seed=28), IMTLG(3)
    assert strategy.over is Over.FEATURES
    for _ in range(4):
        dense = model.dense()
        expected = torch.from_numpy(closed_form(dense.features.numpy()))
        weights = model.backward(strategy).weights
        torch.testing.assert_close(weights, expected, rtol=1e-8, atol=0)
        model.assert_shared(expected @ dense.rows)
        model.assert_heads([1.0] * 3, dense)
        found = projections(dense.features.numpy(), (weights @ dense.features).numpy())
        np.testing.assert_allclose(found, found.mean(), rtol=1e-9)
        model.step()


def test_a_head_never_climbs_its_own_loss(network):
    """A weight may be negative, which is no weight for what a task has to itself."""
    model = network(6, seed=54)
    dense = model.dense()
    assert model.backward(IMTLG(6)).weights.min() < 0
    model.assert_heads([1.0] * 6, dense)


def test_tasks_that_are_absent_take_no_part(network):
    model = network(3, seed=28)
    dense = model.dense([2, 0])
    expected = torch.from_numpy(closed_form(dense.features.numpy()))
    model.backward(IMTLG(3), [2, 0])
    model.assert_shared(expected @ dense.rows)
    model.assert_heads([1.0, 1.0], dense, [2, 0])


def test_of_two_each_weighs_as_the_other_is_long():
    np.testing.assert_allclose(weights_of(np.array([[3.0, 0.0], [0.0, 1.0]])), [0.25, 0.75])


def test_a_zero_gradient_takes_no_part():
    np.testing.assert_allclose(weights_of(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 1.0]])), [0.25, 0.0, 0.75])


def test_opposite_gradients_cancel():
    gradients = np.array([[3.0, 0.0], [-1.0, 0.0]])
    weights = weights_of(gradients)
    np.testing.assert_allclose(weights @ gradients, 0, atol=1e-12)
    assert weights.sum() == pytest.approx(1)


def test_all_zero_gradients_weigh_alike():
    np.testing.assert_allclose(weights_of(np.zeros((2, 3))), [0.5, 0.5])


@pytest.mark.parametrize("noise", [1e-16, 1e-8, 3e-7])
def test_parallel_gradients_share_as_one_whatever_the_rounding(noise):
    """Cosines of float32 gradients are off by some 1e-7, which must not decide how long the direction is."""
    gradients = np.array([[1.0, 0.0], [3.0, 0.0], [1.0, 2.0]])
    exact, off = torch.from_numpy(gradients @ gradients.T), np.random.default_rng(0)
    strategy, losses = IMTLG(3), torch.ones(3).double()
    expected = strategy.weights(losses, exact).weights.numpy() @ gradients
    for _ in range(50):
        change = 1 + noise * off.uniform(-1, 1, size=(3, 3))
        rounded = exact * torch.from_numpy((change + change.T) / 2)
        found = strategy.weights(losses, rounded).weights.numpy() @ gradients
        np.testing.assert_allclose(found, expected, atol=1e-5)
