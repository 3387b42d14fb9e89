"""FAMO against algorithm 1 of Liu, Feng, Stone and Liu (NeurIPS 2023), by autograd and stock optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.errors import NonFiniteError
from mtlkit.strategies import FAMO

SETTINGS = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "lr": 0.3, "gamma": 0.5},
    {"optimizer": "sgd", "lr": 0.5, "gamma": 0.1},
    {"optimizer": "sgd", "lr": 0.5, "gamma": 0.1, "lower_bound": -2.0},
]


class Direct:
    """The algorithm as it stands: the model's step descends on c sum z_i log D_i, and autograd does the rest."""

    def __init__(self, n_tasks, *, optimizer="adam", lr=0.025, gamma=0.001, lower_bound=0.0):
        self.logits = torch.zeros(n_tasks, dtype=torch.float64, requires_grad=True)
        stock = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
        self.optimizer = stock([self.logits], lr=lr, weight_decay=gamma)
        self.bound = lower_bound

    def total(self, losses):
        above = losses - self.bound
        z = torch.softmax(self.logits.detach(), 0)
        c = 1 / (z / above.detach()).sum()
        return c * (z * above.log()).sum()

    def update(self, before, after):
        fell = (before - self.bound).log() - (after - self.bound).log()
        self.optimizer.zero_grad()
        torch.softmax(self.logits, 0).backward(fell)  # J' (log D(t) - log D(t + 1))
        self.optimizer.step()


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_a_run_is_that_of_the_algorithm(network, options):
    model, strategy, direct = network(3), FAMO(3, **options), Direct(3, **options)
    parameters = list(model.parameters())
    for _ in range(6):
        losses = torch.stack(model.losses(model.encoder(model.rows)))
        # K times the total, the one departure; at the paper's scale the weights sum to 1.
        expected = torch.autograd.grad(3 * direct.total(losses), parameters)
        measured = model.backward(strategy)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-13)
        assert measured.weights.sum().item() == pytest.approx(3)
        model.step()
        with torch.no_grad():
            after = torch.stack(model.losses(model.encoder(model.rows)))
        strategy.observe(after)
        direct.update(losses.detach(), after)
        torch.testing.assert_close(strategy.logits, direct.logits.detach(), rtol=1e-9, atol=1e-14)
    assert strategy.logits.abs().min() > 0


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_constant_losses_leave_the_logits_where_they_are(options):
    strategy = FAMO(3, **options)
    for _ in range(200):
        strategy.weights(vector(0.3, 5.0, 70.0))
        strategy.observe(vector(0.3, 5.0, 70.0))
    assert strategy.logits.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("optimizer", "within"), [("sgd", 1e-12), ("adam", 0.02)])
def test_losses_that_fall_at_one_rate_leave_z_uniform(optimizer, within):
    """Adam makes steps of rounding, but none beyond its learning rate."""
    strategy = FAMO(3, optimizer=optimizer)
    losses = vector(0.3, 5.0, 70.0)
    for _ in range(100):
        strategy.weights(losses)
        losses = 0.9 * losses
        strategy.observe(losses)
    torch.testing.assert_close(torch.softmax(strategy.logits, 0), vector(1, 1, 1) / 3, rtol=within, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_task_that_fell_least_gains(optimizer):
    strategy = FAMO(2, optimizer=optimizer)
    strategy.weights(vector(1.0, 1.0))
    strategy.observe(vector(0.5, 0.9))
    assert strategy.logits[1] > 0 > strategy.logits[0]


def test_the_logits_decay_towards_uniform():
    strategy = FAMO(2, optimizer="sgd", lr=0.1, gamma=0.5)
    strategy.logits.copy_(vector(1.0, -1.0))
    strategy.weights(vector(1.0, 1.0))
    strategy.observe(vector(1.0, 1.0))
    torch.testing.assert_close(strategy.logits, vector(0.95, -0.95))


@settings(max_examples=40, deadline=None)
@given(
    losses=st.lists(st.floats(1e-4, 1e4), min_size=3, max_size=3),
    logits=st.lists(st.floats(-5, 5), min_size=3, max_size=3),
)
def test_every_loss_falls_at_its_share(losses, logits):
    """w_i L_i is proportional to z_i: the step is that of sum z_i log L_i, whatever the losses' scales."""
    strategy = FAMO(3)
    strategy.logits.copy_(vector(*logits))
    weights = strategy.weights(vector(*losses)).weights.numpy()
    shares = weights * losses
    z = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(shares / shares.sum(), z, rtol=1e-9)
    assert weights.sum() == pytest.approx(3)


def test_a_task_that_is_absent_keeps_its_logit(network):
    model, strategy = network(3), FAMO(3, optimizer="sgd", lr=1.0, gamma=0.1)
    strategy.logits.copy_(vector(0.3, -0.2, 0.5))
    dense = model.dense([2, 0])
    z = torch.softmax(vector(0.5, 0.3), 0)
    weights = 2 * (z / dense.losses) / (z / dense.losses).sum()
    model.backward(strategy, [2, 0])
    model.assert_shared(weights @ dense.rows)
    model.assert_heads(weights, dense, [2, 0])
    strategy.observe(0.5 * dense.losses, torch.tensor([2, 0]))  # both fell alike: what moves is the decay
    torch.testing.assert_close(strategy.logits, vector(0.27, -0.2, 0.45))


def test_losses_that_are_not_finite_are_refused():
    strategy = FAMO(2)
    strategy.weights(vector(1.0, 2.0))
    with pytest.raises(NonFiniteError, match="Non-finite loss of task 1: FAMO learns nothing from it") as caught:
        strategy.observe(vector(1.0, float("nan")))
    assert caught.value.places == (1,)
    assert strategy.logits.tolist() == [0.0, 0.0]
    assert strategy.descent.steps.tolist() == [0.0, 0.0]


def test_a_loss_at_its_bound_leaves_all_finite():
    strategy = FAMO(2)
    assert strategy.weights(vector(0.0, 1.0)).weights.isfinite().all()
    strategy.observe(vector(-1.0, 0.0))
    assert strategy.logits.isfinite().all()
    assert strategy.weights(vector(1.0, 1.0)).weights.isfinite().all()


def test_evaluation_moves_nothing():
    strategy = FAMO(2)
    strategy.weights(vector(1.0, 2.0))
    strategy.eval()
    strategy.weights(vector(5.0, 5.0))
    strategy.observe(vector(0.1, 1.0))
    assert strategy.logits.tolist() == [0.0, 0.0]
    strategy.train()
    strategy.observe(vector(1.0, 2.0))  # what it compares with is what training saw
    assert strategy.logits.tolist() == [0.0, 0.0]


def test_it_watches_the_step_and_gives_nothing_to_an_optimizer():
    assert FAMO.watches_step
    assert FAMO(2).parameter_groups() == []
