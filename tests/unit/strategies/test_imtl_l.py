"""The loss balance of IMTL (Liu et al., ICLR 2021, section 3.2): sum_i exp(s_i) L_i - s_i."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import backward
from mtlkit.strategies import IMTLL


def test_the_model_and_the_scales_descend_on_the_sum(network):
    model, strategy = network(3), IMTLL(3)
    parameters = [*model.parameters(), *strategy.parameters()]
    for _ in range(4):
        losses = torch.stack(model.losses(model.encoder(model.rows)))
        s = torch.stack(list(strategy.log_scales))
        expected = torch.autograd.grad((s.exp() * losses - s).sum(), parameters)
        strategy.zero_grad()
        measured = model.backward(strategy)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(measured.weights, s.exp().detach())
        with torch.no_grad():
            for parameter in parameters:
                parameter.sub_(0.1 * parameter.grad)
    assert all(s.item() != 0 for s in strategy.log_scales)


def test_it_begins_with_the_plain_sum(network):
    model = network(2)
    dense = model.dense()
    assert model.backward(IMTLL(2)).weights.tolist() == [1.0, 1.0]
    model.assert_shared(dense.rows.sum(0))


@settings(max_examples=10, deadline=None)
@given(losses=st.lists(st.floats(1e-2, 1e2), min_size=2, max_size=4))
def test_at_the_optimum_every_scaled_loss_is_1(losses):
    strategy = IMTLL(len(losses))
    optimizer = torch.optim.LBFGS(strategy.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        point = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
        backward(list(point.unbind()), strategy=strategy)
        s = torch.stack([each.detach() for each in strategy.log_scales])
        return (s.exp() * point.detach() - s).sum()

    for _ in range(5):
        optimizer.step(closure)
    weights = strategy.weights(torch.tensor(losses, dtype=torch.float64)).weights
    torch.testing.assert_close(
        weights.detach() * torch.tensor(losses), torch.ones(len(losses)).double(), rtol=1e-4, atol=0
    )


def test_a_task_that_is_absent_pays_nothing(network):
    model, strategy = network(3), IMTLL(3)
    dense = model.dense([2, 0])
    model.backward(strategy, [2, 0])
    model.assert_shared(dense.rows.sum(0))
    model.assert_heads([1.0, 1.0], dense, [2, 0])
    assert strategy.log_scales[1].grad is None
    for place, task in enumerate([2, 0]):
        assert strategy.log_scales[task].grad.item() == pytest.approx(dense.losses[place].item() - 1)


def test_its_scales_may_have_a_learning_rate_of_their_own():
    strategy = IMTLL(2, lr=0.5)
    (group,) = strategy.parameter_groups()
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.0)
    assert group["params"] == list(strategy.parameters())
    assert "lr" not in IMTLL(2).parameter_groups()[0]
