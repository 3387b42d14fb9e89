"""IMTL, both balances (Liu et al., ICLR 2021, algorithm 1): scaled losses, then equal projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlkit.strategies import IMTL


def closed_form(gradients):
    """Return the paper's weights of the gradients of the scaled losses."""
    units = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    differences, unit_differences = gradients[:1] - gradients[1:], units[:1] - units[1:]
    rest = gradients[0] @ unit_differences.T @ np.linalg.inv(differences @ unit_differences.T)
    return np.concatenate([[1 - rest.sum()], rest])


def test_a_run_follows_the_algorithm(network):
    model, strategy = network(3, seed=28), IMTL(3)
    for step in range(5):
        s = torch.stack([each.detach() for each in strategy.log_scales])
        assert step == 0 or s.abs().min() > 0
        dense = model.dense()
        scaled = s.exp()[:, None] * dense.features  # the gradients of exp(s_i) L_i at the features
        alpha = torch.from_numpy(closed_form(scaled.numpy()))
        strategy.zero_grad()
        measured = model.backward(strategy)
        model.assert_shared((alpha * s.exp()) @ dense.rows, rtol=1e-8)
        model.assert_heads(s.exp(), dense)
        torch.testing.assert_close(measured.weights, alpha * s.exp(), rtol=1e-8, atol=0)
        for each, loss in zip(strategy.log_scales, dense.losses, strict=True):
            # d/ds (exp(s) L - s)
            assert each.grad.item() == pytest.approx((each.exp() * loss - 1).item(), rel=1e-9)
        model.step()
        with torch.no_grad():
            for each in strategy.log_scales:
                each.sub_(0.2 * each.grad)


def test_the_scales_do_not_turn_the_direction(network):
    model, strategy = network(3, seed=28), IMTL(3)
    model.backward(strategy)
    before = model.shared_gradient
    with torch.no_grad():
        for each, value in zip(strategy.log_scales, (1.0, -2.0, 0.5), strict=True):
            each.fill_(value)
    model.backward(strategy)
    after = model.shared_gradient
    torch.testing.assert_close(after / after.norm(), before / before.norm(), rtol=1e-8, atol=1e-12)


def test_tasks_that_are_absent_take_no_part(network):
    model, strategy = network(3, seed=28), IMTL(3)
    with torch.no_grad():
        strategy.log_scales[2].fill_(0.7)
    dense = model.dense([2, 0])
    scales = torch.tensor([0.7, 0.0], dtype=torch.float64).exp()
    alpha = torch.from_numpy(closed_form((scales[:, None] * dense.features).numpy()))
    model.backward(strategy, [2, 0])
    model.assert_shared((alpha * scales) @ dense.rows)
    model.assert_heads(scales, dense, [2, 0])
    assert strategy.log_scales[1].grad is None


def test_its_scales_may_have_a_learning_rate_of_their_own():
    (group,) = IMTL(2, lr=0.5).parameter_groups()
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.0)
