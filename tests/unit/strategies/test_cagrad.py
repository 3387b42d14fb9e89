"""CAGrad against its two problems (Liu et al., NeurIPS 2021): the dual over the simplex, and the primal in a ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from mtlkit.strategies import CAGrad

SEEDS = st.integers(0, 2**32 - 1)


def dual(gradients, c, w):
    """Return F(w) = g_w . g_0 + c ||g_0|| ||g_w||."""
    mean, combination = gradients.mean(0), w @ gradients
    return combination @ mean + c * np.linalg.norm(mean) * np.linalg.norm(combination)


def direction_of_two(first, second, c):
    """Return g_0 + c ||g_0|| g_w / ||g_w|| with the least of F found by search."""
    gradients = np.stack([first, second])
    grid = np.linspace(0, 1, 2001)
    best = grid[np.argmin([dual(gradients, c, np.array([a, 1 - a])) for a in grid])]
    found = optimize.minimize_scalar(
        lambda a: dual(gradients, c, np.array([a, 1 - a])),
        bounds=(max(best - 1e-3, 0), min(best + 1e-3, 1)),
        method="bounded",
        options={"xatol": 1e-12},
    )
    combination = np.array([found.x, 1 - found.x]) @ gradients
    mean = gradients.mean(0)
    return mean + c * np.linalg.norm(mean) * combination / np.linalg.norm(combination)


def random_gradients(seed, n_tasks, size=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(0.5 * rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, **options):
    rows = torch.from_numpy(gradients)
    return CAGrad(len(rows), **options).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.2, 0.5, 0.9]))
def test_of_two_it_is_what_a_search_finds(seed, c):
    gradients = random_gradients(seed, 2)
    found = weights_of(gradients, c=c) @ gradients
    np.testing.assert_allclose(found, direction_of_two(*gradients, c), atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(2, 6), st.floats(0.05, 0.95))
def test_the_direction_solves_the_primal_problem(seed, n_tasks, c):
    """max over d of min_i g_i . d within c ||g_0|| of g_0: no d can do better than any w of the dual says."""
    gradients = random_gradients(seed, n_tasks)
    mean = gradients.mean(0)
    direction = weights_of(gradients, c=c) @ gradients
    away = np.linalg.norm(direction - mean)
    assert away <= c * np.linalg.norm(mean) * (1 + 1e-9)
    # The weights of the dual are what is left of the strategy's beyond the mean.
    extra = weights_of(gradients, c=c) - 1 / n_tasks
    assert (extra >= -1e-12).all()
    w = extra / extra.sum()
    size = np.linalg.norm(gradients, axis=1).max() * np.linalg.norm(mean)
    np.testing.assert_allclose((gradients @ direction).min(), dual(gradients, c, w), atol=1e-5 * size)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_no_other_weights_have_a_lesser_dual(seed):
    gradients = random_gradients(seed, 4)
    extra = weights_of(gradients, c=0.5) - 1 / 4
    least = dual(gradients, 0.5, extra / extra.sum())
    others = np.random.default_rng(seed).dirichlet(np.full(4, 0.5), size=500)
    assert least <= min(dual(gradients, 0.5, w) for w in others) + 1e-9


def test_with_c_of_0_it_is_the_mean_gradient(network):
    model = network(3, seed=28)
    dense = model.dense()
    weights = model.backward(CAGrad(3, c=0.0)).weights
    assert weights.tolist() == [1 / 3] * 3
    model.assert_shared(dense.rows.mean(0))


@pytest.mark.parametrize("rescale", [False, True])
def test_a_run_follows_the_algorithm(network, rescale):
    model, strategy = network(2, seed=28), CAGrad(2, c=0.4, rescale=rescale)
    for _ in range(3):
        dense = model.dense()
        expected = direction_of_two(*dense.rows.numpy(), 0.4) / (1 + 0.4**2 if rescale else 1)
        weights = model.backward(strategy).weights
        model.assert_shared(torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
        model.assert_shared(weights @ dense.rows)
        model.assert_heads(weights, dense)
        model.step()


def test_tasks_that_are_absent_take_no_part(network):
    model = network(3, seed=28)
    dense = model.dense([2, 0])
    model.backward(CAGrad(3), [2, 0])
    model.assert_shared(torch.from_numpy(direction_of_two(*dense.rows.numpy(), 0.5)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("c", [0.0, 0.5])
def test_one_task_is_its_gradient_up_to_a_factor(c):
    np.testing.assert_allclose(weights_of(np.array([[2.0, 1.0]]), c=c), [1 + c])


@pytest.mark.parametrize("noise", [0.0, 1e-16, 1e-8, 3e-7])
@pytest.mark.parametrize("second", [-1.0, -1.1])
def test_where_the_worst_combination_vanishes_rounding_is_not_blown_up(noise, second):
    """Two opposite tasks and a third: g_w is 0, and what the Gram matrix has for its length is rounding."""
    gradients = np.array([[1.0, 0.0], [second, 0.0], [0.0, 1.0]])
    exact, off = gradients @ gradients.T, np.random.default_rng(0)
    strategy, losses = CAGrad(3, c=0.5), torch.ones(3).double()
    mean = np.linalg.norm(gradients.mean(0))
    for _ in range(100):
        change = 1 + noise * off.uniform(-1, 1, size=(3, 3))
        gramian = torch.from_numpy(exact * (change + change.T) / 2)
        weights = strategy.weights(losses, gramian).weights.numpy()
        assert np.abs(weights).max() < 1e3
        assert np.linalg.norm(weights @ gradients - gradients.mean(0)) <= 0.5 * mean * 1.01
