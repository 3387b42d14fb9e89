"""Random loss weighting (Lin et al., TMLR 2022): softmax of standard normal numbers, anew at each step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from mtlkit.strategies import RLW

ONES = torch.ones(3, dtype=torch.float64)


def drawn(strategy, steps, tasks=None):
    k = 3 if tasks is None else len(tasks)
    present = None if tasks is None else torch.tensor(tasks)
    return np.stack([strategy.weights(ONES[:k], tasks=present).weights.numpy() for _ in range(steps)])


def test_the_step_descends_on_the_weighted_sum(network):
    model, strategy = network(3), RLW(3, seed=1)
    for _ in range(3):
        dense = model.dense()
        weights = model.backward(strategy).weights
        model.assert_shared(weights @ dense.rows)
        model.assert_heads(weights, dense)
        model.step()


def test_the_weights_are_a_softmax_of_normal_numbers_that_sums_to_the_number_of_tasks():
    weights = drawn(RLW(3, seed=0), 3000)
    np.testing.assert_allclose(weights.sum(1), 3)
    assert (weights > 0).all()
    # log w_i - log w_j = x_i - x_j ~ N(0, 2), and no two steps or tasks have to do with each other.
    for one, other in itertools.combinations(range(3), 2):
        differences = np.log(weights[:, one]) - np.log(weights[:, other])
        assert stats.kstest(differences, stats.norm(scale=2**0.5).cdf).pvalue > 1e-3
        assert abs(np.corrcoef(differences[1:], differences[:-1])[0, 1]) < 0.08
    # The mean over the K logits is lost to the softmax; what is left of each has variance 1 - 1/K.
    centred = np.log(weights) - np.log(weights).mean(1, keepdims=True)
    np.testing.assert_allclose(np.cov(centred.T), np.eye(3) - 1 / 3, atol=0.06)
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.06)


def test_tasks_that_are_absent_are_left_out_of_the_softmax():
    every, two = drawn(RLW(3, seed=5), 4), drawn(RLW(3, seed=5), 4, [2, 0])
    expected = 2 * every[:, [2, 0]] / every[:, [2, 0]].sum(1, keepdims=True)
    np.testing.assert_allclose(two, expected)


def test_a_seed_says_it_all():
    assert np.array_equal(drawn(RLW(3, seed=7), 5), drawn(RLW(3, seed=7), 5))
    assert not np.isclose(drawn(RLW(3, seed=7), 5), drawn(RLW(3, seed=8), 5)).any()


def test_neighbouring_seeds_do_not_repeat_each_others_steps():
    first, second = drawn(RLW(3, seed=0), 50), drawn(RLW(3, seed=1), 50)
    assert not np.isclose(first[:, None, 0], second[None, :, 0], rtol=1e-9).any()


def test_without_a_seed_it_is_that_of_torch():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        assert np.array_equal(drawn(RLW(3), 3), drawn(RLW(3, seed=11), 3))


def test_evaluation_takes_no_step():
    strategy = RLW(3, seed=0).eval()
    again = drawn(strategy, 2)
    assert np.array_equal(again[0], again[1])
    assert np.array_equal(drawn(strategy.train(), 1)[0], again[0])


def test_going_on_from_a_checkpoint_draws_on():
    whole, restored = RLW(3, seed=3), RLW(3, seed=4)
    drawn(whole, 3)
    restored.load_state_dict(whole.state_dict())
    assert np.array_equal(drawn(whole, 3), drawn(restored, 3))


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_any_seed_serves(seed):
    assert np.isfinite(drawn(RLW(3, seed=seed), 3)).all()


def test_one_task_weighs_1():
    assert RLW(1, seed=0).weights(ONES[:1]).weights.tolist() == [1.0]
