"""MGDA against min over the simplex of ||sum_i w_i g_i||^2, found by trying every face of the simplex."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import MGDA, Over

SEEDS = st.integers(0, 2**32 - 1)


def shortest(gradients):
    """Return the weights of the point of least norm: of all faces' affine minima that lie inside, the shortest."""
    k, best = len(gradients), None
    for size in range(1, k + 1):
        for face in map(list, itertools.combinations(range(k), size)):
            edges = gradients[face[1:]] - gradients[face[0]]
            steps = np.linalg.lstsq(edges.T, -gradients[face[0]], rcond=None)[0]
            weights = np.zeros(k)
            weights[face] = [1 - steps.sum(), *steps]
            if (weights >= -1e-12).all():
                norm = np.linalg.norm(weights @ gradients)
                if best is None or norm < best[0] - 1e-13:
                    best = norm, weights
    return best[1]


def random_gradients(seed, n_tasks, size=6):
    """Return gradients that may well conflict, of unlike lengths."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(n_tasks, size)) + rng.uniform(0, 1.5) * rng.normal(size=size)
    return gradients * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, losses=None, **options):
    rows = torch.from_numpy(gradients)
    losses = torch.ones(len(rows)).double() if losses is None else torch.tensor(losses, dtype=torch.float64)
    return MGDA(len(rows), **options).weights(losses, rows @ rows.T).weights.numpy()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_the_weights_are_those_of_the_shortest_combination(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    np.testing.assert_allclose(weights_of(gradients), shortest(gradients), atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(2, 8))
def test_the_conditions_of_a_minimum_hold(seed, n_tasks):
    """KKT: every g_i . d is at least ||d||^2, and equal to it where the weight is not 0. So d hurts no task."""
    gradients = random_gradients(seed, n_tasks)
    weights = weights_of(gradients)
    direction = weights @ gradients
    square, slack = direction @ direction, 1e-8 * (gradients**2).sum(1).max()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    products = gradients @ direction
    assert (products >= square - slack).all()
    np.testing.assert_allclose(products[weights > 1e-7], square, atol=slack)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_of_two_it_is_the_closed_form(seed):
    first, second = gradients = random_gradients(seed, 2)
    expected = np.clip((second - first) @ second / ((first - second) @ (first - second)), 0, 1)
    np.testing.assert_allclose(weights_of(gradients), [expected, 1 - expected], atol=1e-9)


def test_orthogonal_gradients_weigh_as_the_inverse_of_their_squares():
    np.testing.assert_allclose(weights_of(np.diag([1.0, 2.0, 4.0])), np.array([16, 4, 1]) / 21)


def test_at_a_pareto_stationary_point_the_direction_is_0():
    gradients = np.array([[1.0, 0.0], [-0.5, 1.0], [-0.5, -3.0]])
    np.testing.assert_allclose(weights_of(gradients) @ gradients, 0, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_normalised_it_is_solved_for_other_lengths_and_combines_the_gradients_as_they_are(seed):
    gradients = random_gradients(seed, 3)
    losses = np.exp(np.random.default_rng(seed).normal(size=3))
    norms = np.linalg.norm(gradients, axis=1)
    for normalize, divisors in {"none": np.ones(3), "l2": norms, "loss": losses, "loss+": losses * norms}.items():
        expected = shortest(gradients / divisors[:, None])
        np.testing.assert_allclose(weights_of(gradients, losses, normalize=normalize), expected, atol=1e-6)


@pytest.mark.parametrize("normalize", ["none", "l2", "loss", "loss+"])
def test_a_run_takes_the_shortest_direction_and_leaves_the_heads_their_own(network, normalize):
    model, strategy = network(3, seed=12), MGDA(3, normalize=normalize)
    assert strategy.over is Over.PARAMETERS
    for _ in range(3):
        dense = model.dense()
        rows = dense.rows.numpy()
        norms, losses = np.linalg.norm(rows, axis=1), dense.losses.numpy()
        divisors = {"none": np.ones(3), "l2": norms, "loss": losses, "loss+": losses * norms}[normalize]
        expected = torch.from_numpy(shortest(rows / divisors[:, None]))
        weights = model.backward(strategy).weights
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-8)
        model.assert_shared(expected @ dense.rows, rtol=1e-6, atol=1e-8)
        model.assert_heads([1.0] * 3, dense)
        model.step()


def test_a_task_that_weighs_nothing_has_a_head_that_learns(network):
    """Algorithm 2 updates what is a task's own by its own gradient."""
    model = network(2, scales=[1.0, 1e4])
    dense = model.dense()
    assert model.backward(MGDA(2)).weights.tolist() == [1.0, 0.0]
    model.assert_heads([1.0, 1.0], dense)


def test_tasks_that_are_absent_take_no_part(network):
    model = network(3, seed=12)
    dense = model.dense([2, 0])
    model.backward(MGDA(3), [2, 0])
    model.assert_shared(torch.from_numpy(shortest(dense.rows.numpy())) @ dense.rows, rtol=1e-6, atol=1e-8)
    model.assert_heads([1.0, 1.0], dense, [2, 0])
