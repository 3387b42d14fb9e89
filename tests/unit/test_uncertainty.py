"""Uncertainty weighting against the likelihoods of Kendall, Gal and Cipolla (CVPR 2018), written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit import backward
from mtlkit.strategies import Needs, Uncertainty

KINDS = ("regression", "classification", "laplace")

task_facts = st.tuples(st.sampled_from(KINDS), st.floats(1e-3, 1e3), st.floats(-4, 4))  # kind, loss, s


def gradient(strategy):
    """Return the gradient of every log scale."""
    return torch.stack([parameter.grad for parameter in strategy.log_scales])


def paid(kind, loss, s):
    """Return what a task pays, up to constants: the negative log-likelihood under the noise that s stands for.

    With sigma^2 = e^s: Gaussian L / (2 sigma^2) + log sigma; categorical L / sigma^2 + log sigma. With scale e^s:
    Laplace L / scale + log scale.
    """
    scale = torch.exp(s)
    if kind == "regression":
        return loss / (2 * scale) + torch.log(scale) / 2
    if kind == "classification":
        return loss / scale + torch.log(scale) / 2
    return loss / scale + torch.log(scale)


def strategy_at(kinds, scales):
    strategy = Uncertainty(len(kinds), kinds)
    with torch.no_grad():
        for parameter, scale in zip(strategy.log_scales, scales, strict=True):
            parameter.fill_(scale)
    return strategy


def scalar_losses(values):
    """Return a leaf for each loss, and losses whose gradient at the leaf is their weight."""
    leaves = [nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]
    return leaves, [leaf * 1 for leaf in leaves]


@settings(max_examples=100, deadline=None)
@given(st.lists(task_facts, min_size=1, max_size=6))
def test_the_gradients_are_those_of_the_explicit_formula(facts):
    kinds, values, scales = (list(column) for column in zip(*facts, strict=True))
    explicit_losses = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    explicit_scales = torch.tensor(scales, dtype=torch.float64, requires_grad=True)
    sum(map(paid, kinds, explicit_losses, explicit_scales)).backward()

    strategy = strategy_at(kinds, scales)
    leaves, losses = scalar_losses(values)
    measured = backward(losses, strategy=strategy)

    torch.testing.assert_close(gradient(strategy), explicit_scales.grad, rtol=1e-12, atol=1e-12)
    expected = torch.stack([loss.grad for loss in explicit_losses])
    torch.testing.assert_close(torch.stack([leaf.grad for leaf in leaves]), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(measured.weights, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("kind", "best"),
    [
        ("regression", math.log(3.0)),  # sigma^2 = L
        ("classification", math.log(2 * 3.0)),  # sigma^2 = 2 L
        ("laplace", math.log(3.0)),  # b = L
    ],
)
def test_a_constant_loss_is_learned_to_its_closed_form(kind, best):
    strategy = Uncertainty(1, [kind], lr=0.3)
    optimizer = torch.optim.SGD(strategy.parameter_groups(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        backward(scalar_losses([3.0])[1], strategy=strategy)
        optimizer.step()
    assert strategy.log_scales[0].item() == pytest.approx(best, abs=1e-9)


def test_it_starts_from_unit_noise():
    answer = Uncertainty(3, KINDS).weights(torch.ones(3, dtype=torch.float64))
    assert answer.weights.tolist() == [0.5, 1.0, 1.0]
    assert answer.penalty.item() == 0.0


def test_the_losses_themselves_are_constants_to_the_model_of_the_noise():
    losses = torch.ones(2, dtype=torch.float64, requires_grad=True)
    answer = Uncertainty(2, ["regression", "laplace"]).weights(losses)
    (gradient,) = torch.autograd.grad(answer.weights.sum(), [losses], allow_unused=True)
    assert gradient is None


def test_its_scales_are_learned_without_weight_decay():
    strategy = Uncertainty(2, ["regression", "laplace"])
    (group,) = strategy.parameter_groups()
    assert group["params"] == list(strategy.log_scales)
    assert group["weight_decay"] == 0.0
    assert "lr" not in group

    optimizer = torch.optim.SGD(strategy.parameter_groups(), lr=0.1, weight_decay=10.0)
    with torch.no_grad():
        for parameter in strategy.log_scales:
            parameter.fill_(2.0)
            parameter.grad = torch.zeros((), dtype=torch.float64)
    optimizer.step()
    assert [parameter.item() for parameter in strategy.log_scales] == [2.0, 2.0]


def test_its_scales_may_have_a_learning_rate_of_their_own():
    (group,) = Uncertainty(1, ["laplace"], lr=0.125).parameter_groups()
    assert group["lr"] == 0.125


def test_it_needs_the_losses_alone():
    assert Uncertainty.needs is Needs.LOSSES
    assert Uncertainty.over is None


def test_a_preference_changes_what_the_model_learns_but_not_what_the_scales_do():
    kinds, scales, values = ["regression", "classification"], [0.5, -1.0], [0.7, 3.0]
    gradients, weights = [], []
    for preference in (None, torch.tensor([4.0, 0.25])):
        strategy = strategy_at(kinds, scales)
        leaves, losses = scalar_losses(values)
        backward(losses, strategy=strategy, preference=preference)
        gradients.append(gradient(strategy))
        weights.append(torch.stack([leaf.grad for leaf in leaves]))
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(weights[1], weights[0] * torch.tensor([4.0, 0.25]).double(), rtol=1e-12, atol=0)


def test_a_task_that_is_absent_neither_pays_nor_learns():
    strategy = strategy_at(KINDS, [1.0, 2.0, 3.0])
    _, losses = scalar_losses([0.5, 0.25])
    measured = backward(losses, strategy=strategy, tasks=torch.tensor([0, 2]))

    assert strategy.log_scales[1].grad is None
    assert strategy.log_scales[0].grad != 0
    assert strategy.log_scales[2].grad != 0
    assert measured.weights.tolist() == pytest.approx([math.exp(-1) / 2, math.exp(-3)], rel=1e-12)
    penalty = strategy.weights(torch.ones(2).double(), tasks=torch.tensor([0, 2])).penalty
    assert penalty.item() == pytest.approx(1.0 / 2 + 3.0)


def test_the_total_may_go_below_zero_and_the_weights_may_not():
    strategy = strategy_at(["regression"], [-20.0])
    losses = torch.tensor([1e-12]).double()
    answer = strategy.weights(losses)
    assert ((answer.weights * losses).sum() + answer.penalty).item() < 0
    assert answer.weights.item() > 0


def test_accumulated_passes_add_up():
    strategy = strategy_at(["regression"], [0.3])
    for value in (1.0, 3.0):
        backward(scalar_losses([value])[1], strategy=strategy, scale=0.5)
    once = strategy_at(["regression"], [0.3])
    backward(scalar_losses([2.0])[1], strategy=once)
    torch.testing.assert_close(gradient(strategy), gradient(once), rtol=1e-12, atol=0)


def test_a_loss_without_a_likelihood_is_refused():
    with pytest.raises(
        ValueError, match=r"the loss of task 1 is of kind 'other'.* regression, classification, laplace"
    ):
        Uncertainty(2, ["regression", "other"])


@pytest.mark.parametrize("kinds", [[], ["laplace"], ["laplace"] * 3])
def test_one_kind_for_each_task(kinds):
    with pytest.raises(ValueError, match=f"one entry for each of the 2 tasks; received {len(kinds)}"):
        Uncertainty(2, kinds)


def test_an_optimizer_with_a_memory_leaves_the_scale_of_an_absent_task_alone():
    strategy = Uncertainty(2, ["regression", "classification"])
    optimizer = torch.optim.AdamW(strategy.parameter_groups(), lr=0.1)
    everyone, first = None, torch.tensor([0])
    for tasks in [everyone, everyone, first, first]:
        losses = torch.tensor([3.0, 0.2], dtype=torch.float64)[: 2 if tasks is None else 1]
        weighting = strategy.weights(losses, tasks=tasks)
        before = strategy.log_scales[1].item()
        optimizer.zero_grad()
        ((weighting.weights * losses).sum() + weighting.penalty).backward()
        optimizer.step()
        assert (strategy.log_scales[1].item() == before) is (tasks is first)
