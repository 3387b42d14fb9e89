"""Gradient sign dropout against algorithm 1 of Chen et al. (NeurIPS 2020), entry by entry at the features."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mtlkit import backward
from mtlkit.strategies import GradDrop, Over


def rows_of(seed, n_tasks=3, size=400):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n_tasks, size)))


def direction_of(strategy, rows, tasks=None):
    answer = strategy.combine(
        torch.ones(len(rows), dtype=torch.float64), rows.clone(), None if tasks is None else torch.tensor(tasks)
    )
    return answer.direction.numpy()


def of_each_sign(rows, leak):
    """Return what an entry is if the positive sign is kept, and if the negative one is."""
    g, leak = np.asarray(rows), np.asarray(leak)[:, None]
    return [((leak + (1 - leak) * (sign * g > 0)) * g).sum(0) for sign in (1, -1)]


def purity(rows):
    """Return P, the probability that the positive sign is kept."""
    g = np.asarray(rows)
    return 0.5 * (1 + g.sum(0) / np.abs(g).sum(0))


@pytest.mark.parametrize("leak", [[0.0, 0.0, 0.0], [0.5, 0.0, 1.0]])
def test_one_sign_is_kept_at_every_entry(leak):
    rows = rows_of(0)
    positive, negative = of_each_sign(rows, leak)
    found = direction_of(GradDrop(3, leak=leak, seed=0), rows)
    is_positive, is_negative = np.isclose(found, positive), np.isclose(found, negative)
    assert (is_positive | is_negative).all()
    assert is_positive.any()
    assert is_negative.any()


def test_the_sign_is_drawn_with_its_probability():
    rows = rows_of(1, size=60)
    positive, _ = of_each_sign(rows, [0.0] * 3)
    strategy = GradDrop(3, seed=0)
    steps = 2000
    kept = np.mean([np.isclose(direction_of(strategy, rows), positive) for _ in range(steps)], axis=0)
    expected = purity(rows)
    bound = 4.5 * np.sqrt(expected * (1 - expected) / steps) + 1e-12
    assert (np.abs(kept - expected) <= bound).all()


def test_where_all_agree_nothing_is_dropped():
    rows = rows_of(2).abs()
    rows[:, ::2] *= -1
    strategy = GradDrop(3, seed=0)
    for _ in range(20):
        np.testing.assert_allclose(direction_of(strategy, rows), rows.sum(0), rtol=1e-12)


def test_a_sign_that_is_sure_is_never_dropped_in_float32(monkeypatch):
    """A number drawn just below 1 must not be rounded up to it."""
    strategy, rows = GradDrop(2, seed=0), torch.ones(2, 5)
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full((size,), 1 - 2.0**-40, dtype=torch.float64))
    assert direction_of(strategy, rows).tolist() == [2.0] * 5
    assert direction_of(strategy, -rows).tolist() == [-2.0] * 5


def test_a_leak_of_1_is_the_plain_sum():
    rows = rows_of(3)
    np.testing.assert_allclose(direction_of(GradDrop(3, leak=[1.0] * 3), rows), rows.sum(0), rtol=1e-12)


def test_the_mean_over_many_draws_is_that_of_the_two_signs():
    rows = rows_of(4, size=20)
    strategy = GradDrop(3, seed=1)
    mean = np.mean([direction_of(strategy, rows) for _ in range(3000)], axis=0)
    positive, negative = of_each_sign(rows, [0.0] * 3)
    p = purity(rows)
    np.testing.assert_allclose(mean, p * positive + (1 - p) * negative, atol=0.2)


@pytest.mark.parametrize("leak", [None, [0.3, 0.0, 0.7]])
def test_a_run_backpropagates_the_kept_signs_and_leaves_the_heads_their_own(network, leak):
    model, strategy = network(3), GradDrop(3, leak=leak, seed=5)
    assert strategy.over is Over.FEATURES
    for _ in range(4):
        dense = model.dense()
        direction = torch.from_numpy(direction_of(copy.deepcopy(strategy), dense.features))
        signs = of_each_sign(dense.features, leak or [0.0] * 3)
        assert (np.isclose(direction, signs[0]) | np.isclose(direction, signs[1])).all()
        measured = model.backward(strategy)
        model.assert_shared(model.pulled(direction))
        model.assert_heads([1.0] * 3, dense)
        assert measured.weights.tolist() == [1.0] * 3
        model.step()


def test_tasks_that_are_absent_have_no_say(network):
    model, strategy = network(3), GradDrop(3, leak=[0.2, 0.4, 0.6], seed=5)
    dense = model.dense([2, 0])
    direction = direction_of(copy.deepcopy(strategy), dense.features, [2, 0])
    signs = of_each_sign(dense.features, [0.6, 0.2])
    assert (np.isclose(direction, signs[0]) | np.isclose(direction, signs[1])).all()
    model.backward(strategy, [2, 0])
    model.assert_shared(model.pulled(torch.from_numpy(direction)))
    model.assert_heads([1.0, 1.0], dense, [2, 0])


def test_tasks_with_batches_of_their_own_never_meet(network):
    model = network(2)
    other = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters = list(model.encoder.parameters())

    def losses():
        features = [model.encoder(model.rows), model.encoder(other)]
        return [model.loss(0, model.heads[0](features[0])), model.heads[1](features[1]).square().mean()], features

    expected = torch.autograd.grad(sum(losses()[0]), parameters)
    each, features = losses()
    backward(each, strategy=GradDrop(2, seed=0), features=features, shared=model.encoder)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)


def test_an_entry_without_any_gradient_stays_without():
    assert direction_of(GradDrop(2, seed=0), torch.zeros(2, 5, dtype=torch.float64)).tolist() == [0.0] * 5


@pytest.mark.parametrize("training", [True, False])
def test_the_choices_go_on_in_training_alone(training):
    strategy = GradDrop(3, seed=0).train(training)
    first, second = direction_of(strategy, rows_of(0)), direction_of(strategy, rows_of(0))
    assert np.array_equal(first, second) != training


def test_a_penalty_on_the_encoder_is_refused(network):
    model = network(2)
    z = model.encoder(model.rows)
    losses = model.losses(z)
    losses[0] = losses[0] + model.encoder[0].weight.square().sum()
    with pytest.raises(ValueError, match="past the features"):
        backward(losses, strategy=GradDrop(2), features=z, shared=model.encoder)


def test_one_leak_for_each_task():
    with pytest.raises(ValueError, match="one number for each of the 2 tasks; received 1"):
        GradDrop(2, leak=[0.5])


def test_it_learns_nothing():
    assert list(nn.Module.parameters(GradDrop(2))) == []
