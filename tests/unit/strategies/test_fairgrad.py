"""FairGrad against its equation, M w = w^(-1/alpha) (Ban, Ji, ICML 2024), and the utility that it maximises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import FairGrad, NashMTL

SEEDS = st.integers(0, 2**32 - 1)
ALPHAS = st.sampled_from([0.5, 1.0, 2.0, 5.0])


def random_gradients(seed, n_tasks, size=8):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(0.7 * rng.normal(size=(n_tasks, 1)))


def asked(strategy, gradients):
    rows = torch.from_numpy(gradients)
    return strategy.weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 6), ALPHAS)
def test_the_equation_holds(seed, n_tasks, alpha):
    gradients = random_gradients(seed, n_tasks)
    weights = asked(FairGrad(n_tasks, alpha=alpha), gradients)
    assert (weights > 0).all()
    np.testing.assert_allclose(gradients @ (weights @ gradients), weights ** (-1 / alpha), rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([0.5, 2.0]))
def test_no_direction_as_long_has_more_of_the_utility(seed, alpha):
    """sum_i (g_i . d)^(1 - alpha) / (1 - alpha) over a ball."""
    gradients = random_gradients(seed, 3, size=4)
    direction = asked(FairGrad(3, alpha=alpha), gradients) @ gradients
    best = ((gradients @ direction) ** (1 - alpha) / (1 - alpha)).sum()
    rng = np.random.default_rng(seed)
    for spread in (1.0, 0.1, 0.01):
        others = direction + spread * np.linalg.norm(direction) * rng.normal(size=(300, 4))
        others *= np.linalg.norm(direction) / np.linalg.norm(others, axis=1, keepdims=True)
        gains = others @ gradients.T
        gains = gains[(gains > 0).all(1)]
        assert ((gains ** (1 - alpha) / (1 - alpha)).sum(1) <= best + 1e-9 * abs(best)).all()


def test_with_alpha_of_1_it_is_nash_mtl():
    gradients = random_gradients(3, 4)
    np.testing.assert_allclose(asked(FairGrad(4, alpha=1.0), gradients), asked(NashMTL(4), gradients), rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, ALPHAS, st.floats(1e-2, 1e2))
def test_scaling_all_losses_alike_does_not_turn_the_direction(seed, alpha, factor):
    gradients = random_gradients(seed, 3)
    before = asked(FairGrad(3, alpha=alpha), gradients) @ gradients
    after = asked(FairGrad(3, alpha=alpha), factor * gradients) @ gradients
    np.testing.assert_allclose(after / np.linalg.norm(after), before / np.linalg.norm(before), atol=1e-6)


def test_scaling_one_loss_turns_the_direction_unless_alpha_is_1():
    """Only a logarithm does not feel a scale: of two orthogonal tasks the gains are s^(2 / (1 + alpha))."""
    scaled = np.diag([1.0, 8.0])
    for alpha, expected in ((1.0, 1.0), (2.0, 8 ** (-1 / 3)), (0.5, 8 ** (1 / 3))):
        direction = asked(FairGrad(2, alpha=alpha), scaled) @ scaled
        assert direction[1] / direction[0] == pytest.approx(expected)


def test_the_larger_alpha_is_the_more_the_least_gain_counts():
    gradients = np.array([[1.0, 0.0], [1.0, 3.0]])
    shares = []
    for alpha in (0.5, 1.0, 2.0, 8.0):
        gains = gradients @ (asked(FairGrad(2, alpha=alpha), gradients) @ gradients)
        shares.append(gains.min() / gains.sum())
    assert shares == sorted(shares)
    assert shares[-1] > 1.5 * shares[0]


def test_a_run_solves_the_equation_at_every_step(network):
    model, strategy = network(3, seed=28), FairGrad(3)
    for tasks in (None, None, [2, 0], None):
        dense = model.dense(tasks)
        weights = model.backward(strategy, tasks).weights
        torch.testing.assert_close(dense.gramian @ weights, weights**-0.5, rtol=1e-7, atol=0)
        model.assert_shared(weights @ dense.rows)
        model.assert_heads(weights, dense, tasks)
        model.step(0.02)
    assert strategy.failures == 0


def test_without_a_solution_the_last_good_weights_are_used_and_it_is_counted():
    strategy = FairGrad(2)
    good = asked(strategy, np.array([[1.0, 0.0], [0.0, 4.0]]))
    assert asked(strategy, np.array([[1.0, 0.0], [-2.0, 0.0]])).tolist() == good.tolist()
    assert strategy.failures.item() == 1
