"""Nash-MTL against its equation, M a = 1/a (Navon et al., ICML 2022), and the bargaining problem that it solves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import NashMTL

SEEDS = st.integers(0, 2**32 - 1)


def random_gradients(seed, n_tasks, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(rng.normal(size=(n_tasks, 1)))


def asked(strategy, gradients, tasks=None):
    rows = torch.from_numpy(gradients)
    losses = torch.ones(len(rows), dtype=torch.float64)
    return strategy.weights(losses, rows @ rows.T, None if tasks is None else torch.tensor(tasks)).weights.numpy()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 7))
def test_the_equation_holds(seed, n_tasks):
    gradients = random_gradients(seed, n_tasks)
    weights = asked(NashMTL(n_tasks), gradients)
    assert (weights > 0).all()
    np.testing.assert_allclose(weights * (gradients @ (weights @ gradients)), 1, rtol=1e-7)
    direction = weights @ gradients
    assert direction @ direction == pytest.approx(n_tasks)
    assert (gradients @ direction > 0).all()  # a bargain that every task gains from


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_of_two_it_is_the_closed_form(seed):
    gradients = random_gradients(seed, 2)
    norms = np.linalg.norm(gradients, axis=1)
    cosine = gradients[0] @ gradients[1] / norms.prod()
    np.testing.assert_allclose(asked(NashMTL(2), gradients), 1 / (norms * math.sqrt(1 + cosine)), rtol=1e-8)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_no_direction_as_long_has_a_larger_product_of_gains(seed):
    """The Nash solution: sum_i log(g_i . d) over a ball."""
    gradients = random_gradients(seed, 3, size=4)
    direction = asked(NashMTL(3), gradients) @ gradients
    best = np.log(gradients @ direction).sum()
    rng = np.random.default_rng(seed)
    for spread in (1.0, 0.1, 0.01):
        others = direction + spread * np.linalg.norm(direction) * rng.normal(size=(300, 4))
        others *= np.linalg.norm(direction) / np.linalg.norm(others, axis=1, keepdims=True)
        gains = others @ gradients.T
        gains = gains[(gains > 0).all(1)]
        assert (np.log(gains).sum(1) <= best + 1e-9).all()


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, factors=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
def test_the_scale_of_a_loss_changes_nothing(seed, factors):
    gradients = random_gradients(seed, 3)
    scaled = np.array(factors)[:, None] * gradients
    before, after = asked(NashMTL(3), gradients) @ gradients, asked(NashMTL(3), scaled) @ scaled
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)


def test_a_run_solves_the_equation_at_every_step(network):
    model, strategy = network(3, seed=28), NashMTL(3)
    for _ in range(4):
        dense = model.dense()
        weights = model.backward(strategy).weights
        torch.testing.assert_close(dense.gramian @ weights, 1 / weights, rtol=1e-7, atol=0)
        model.assert_shared(weights @ dense.rows)
        assert model.shared_gradient.square().sum().item() == pytest.approx(3)
        model.assert_heads(weights, dense)
        model.step(0.01)
    assert strategy.failures == 0


def test_tasks_that_are_absent_take_no_part_and_keep_their_last_weight(network):
    model, strategy = network(3, seed=28), NashMTL(3)
    before = model.backward(strategy).weights
    dense = model.dense([2, 0])
    weights = model.backward(strategy, [2, 0]).weights
    torch.testing.assert_close(dense.gramian @ weights, 1 / weights, rtol=1e-7, atol=0)
    assert strategy.last.tolist() == [weights[1], before[1], weights[0]]


def test_without_a_bargain_the_last_good_weights_are_used_and_it_is_counted():
    strategy = NashMTL(2)
    good = asked(strategy, np.array([[1.0, 0.0], [0.0, 4.0]]))
    opposite = np.array([[1.0, 0.0], [-2.0, 0.0]])
    assert asked(strategy, opposite).tolist() == good.tolist()
    assert asked(strategy, opposite).tolist() == good.tolist()
    assert strategy.failures.item() == 2
    strategy.eval()
    asked(strategy, opposite)
    assert strategy.failures.item() == 2


def test_without_a_bargain_ever_all_weigh_1():
    assert asked(NashMTL(2), np.array([[1.0, 0.0], [-1.0, 0.0]])).tolist() == [1.0, 1.0]


def test_what_it_answers_is_no_view_of_its_state():
    strategy = NashMTL(2)
    good = asked(strategy, np.eye(2)).copy()
    asked(strategy, np.eye(2))[:] = 9.0
    asked(strategy, np.array([[1.0, 0.0], [-1.0, 0.0]]))[:] = 9.0
    assert strategy.last.tolist() == good.tolist()
