"""Dynamic weight average against equation 7 of Liu, Johns and Davison (CVPR 2019), written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import DWA

LOSSES = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3)


def weights_of(last, before, temperature):
    """Return K exp(r_k / T) / sum_i exp(r_i / T), r = L(t - 1) / L(t - 2)."""
    powers = np.exp(np.array(last) / np.array(before) / temperature)
    return len(powers) * powers / powers.sum()


def seen(strategy, losses, tasks=None):
    given_ = torch.tensor(losses, dtype=torch.float64)
    return strategy.weights(given_, tasks=None if tasks is None else torch.tensor(tasks)).weights.numpy()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_every_step_of_a_run_is_weighed_by_the_last_two_epochs(network, temperature):
    model, strategy = network(3), DWA(3, temperature=temperature)
    epochs = []
    for epoch in range(5):
        losses = []
        for _ in range(3):
            dense = model.dense()
            expected = np.ones(3)
            if epoch >= 2:
                expected = weights_of(epochs[-1], epochs[-2], temperature)
            measured = model.backward(strategy)
            np.testing.assert_allclose(measured.weights, expected, rtol=1e-12)
            model.assert_shared(torch.from_numpy(expected) @ dense.rows)
            model.assert_heads(expected, dense)
            losses.append(dense.losses.numpy())
            model.step()
        epochs.append(np.mean(losses, axis=0))
        strategy.end_epoch()
    assert np.ptp(measured.weights.numpy()) > 1e-3  # there was something to tell apart


@settings(max_examples=40, deadline=None)
@given(first=LOSSES, second=LOSSES, temperature=st.floats(0.5, 10))
def test_it_is_a_softmax_of_the_ratios(first, second, temperature):
    strategy = DWA(3, temperature=temperature)
    for losses in (first, second):
        seen(strategy, losses)
        strategy.end_epoch()
    ratios = np.array(second) / np.array(first) / temperature
    if ratios.max() < 300:  # beyond it, the formula as it stands overflows
        np.testing.assert_allclose(seen(strategy, [1.0] * 3), weights_of(second, first, temperature), rtol=1e-9)
    assert seen(strategy, [1.0] * 3).sum() == pytest.approx(3)


def test_the_slowest_task_weighs_most():
    strategy = DWA(2)
    for losses in ([1.0, 10.0], [0.9, 5.0]):
        seen(strategy, losses)
        strategy.end_epoch()
    slow, fast = seen(strategy, [1.0, 1.0])
    assert slow > 1 > fast


def test_the_first_two_epochs_weigh_all_alike():
    strategy = DWA(2)
    for losses in ([1.0, 10.0], [0.9, 1.0]):
        assert seen(strategy, losses).tolist() == [1.0, 1.0]
        strategy.end_epoch()


def test_epoch_means_are_over_the_steps_that_a_task_took_part_in():
    strategy = DWA(2)
    for tasks, losses in (([0, 1], [4.0, 1.0]), ([0], [2.0]), ([0], [3.0])):
        seen(strategy, losses, tasks)
    strategy.end_epoch()
    seen(strategy, [1.5, 1.0])
    strategy.end_epoch()
    np.testing.assert_allclose(seen(strategy, [1.0, 1.0]), weights_of([1.5, 1.0], [3.0, 1.0], 2.0))


def test_an_epoch_without_a_task_does_not_count_for_it():
    strategy = DWA(2)
    for tasks, losses in (([0, 1], [4.0, 1.0]), ([0], [2.0]), ([0, 1], [1.0, 0.5])):
        seen(strategy, losses, tasks)
        strategy.end_epoch()
    np.testing.assert_allclose(seen(strategy, [1.0, 1.0]), weights_of([1.0, 0.5], [2.0, 1.0], 2.0))


def test_the_softmax_is_over_the_tasks_present():
    strategy = DWA(3)
    for losses in ([1.0, 1.0, 1.0], [0.5, 0.8, 0.1]):
        seen(strategy, losses)
        strategy.end_epoch()
    expected = weights_of([0.1, 0.5], [1.0, 1.0], 2.0)
    np.testing.assert_allclose(seen(strategy, [1.0, 1.0], [2, 0]), expected)


@pytest.mark.parametrize("losses", [[0.0, 1.0], [-1.0, 1.0]])
def test_a_ratio_without_meaning_counts_as_1(losses):
    strategy = DWA(2)
    for each in ([1.0, 1.0], losses):
        seen(strategy, each)
        strategy.end_epoch()
    np.testing.assert_allclose(seen(strategy, [1.0, 1.0]), [1.0, 1.0])


def test_evaluation_adds_nothing_to_the_epoch():
    strategy = DWA(2)
    seen(strategy, [1.0, 1.0])
    strategy.eval()
    seen(strategy, [9.0, 9.0])
    strategy.train()
    strategy.end_epoch()
    seen(strategy, [1.0, 2.0])
    strategy.end_epoch()
    np.testing.assert_allclose(seen(strategy, [1.0, 1.0]), weights_of([1.0, 2.0], [1.0, 1.0], 2.0))
