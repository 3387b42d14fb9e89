"""mtlkit.step: an optimizer's step and zero_grad, and all who listen to them."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile

import mtlkit


class Own(torch.optim.Optimizer):
    """Plain descent, as somebody writes it."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad)


class Late(Own):
    """One that keeps gradients of 0."""

    def zero_grad(self):
        super().zero_grad(set_to_none=False)


class Announced(Own):
    """One that wraps the step of another, and says that it does."""

    said = ()

    @functools.wraps(Own.step)
    def step(self, closure=None):
        self.said = (*self.said, "a step")
        super().step(closure)


def trained(net):
    """Return the model with gradients, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    net(torch.randn(8, 3, generator=generator)).square().mean().backward()
    return net


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.Adam(parameters, fused=True),
        lambda parameters: torch.optim.AdamW(parameters, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        Own,
    ],
)
def test_it_does_what_the_optimizer_does(make):
    net = network()
    twin = copy.deepcopy(net)
    ours, theirs = make(net.parameters()), make(twin.parameters())
    for _ in range(3):
        trained(net)
        mtlkit.step(ours)
        trained(twin)
        theirs.step()
        theirs.zero_grad()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is None
    assert str(ours.state_dict()) == str(theirs.state_dict())


def test_no_gradient_is_needed():
    net = network()
    mtlkit.step(torch.optim.Adam(net.parameters(), fused=True))
    assert all(torch.equal(one, other) for one, other in zip(net.parameters(), network().parameters(), strict=True))


def test_a_zero_grad_of_its_own_is_called():
    net = trained(network())
    mtlkit.step(Late(net.parameters()))
    assert all(torch.equal(parameter.grad, torch.zeros_like(parameter)) for parameter in net.parameters())


@pytest.mark.parametrize("parent_first", [True, False])
def test_a_step_that_wraps_another_is_called(parent_first):
    """Also where torch has put its own around that other one by then, and its marks came along."""
    net = trained(network())
    if parent_first:
        Own(net.parameters())

        class Later(Own):
            @functools.wraps(Own.step)
            def step(self, closure=None):
                self.said = ("a step",)
                super().step(closure)

        optimizer = Later(net.parameters())
    else:
        optimizer = Announced(net.parameters())
    mtlkit.step(optimizer)
    assert optimizer.said == ("a step",)
    assert not torch.equal(net[0].bias, network()[0].bias)


def test_hooks_of_the_optimizer_are_called():
    heard = []
    net = trained(network())
    optimizer = Own(net.parameters())
    optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
    optimizer.register_step_post_hook(lambda *_: heard.append("after"))
    mtlkit.step(optimizer)
    assert heard == ["before", "after"]


def test_hooks_of_all_optimizers_are_called():
    heard = []
    handle = register_optimizer_step_post_hook(lambda *_: heard.append("after"))
    try:
        mtlkit.step(Own(trained(network()).parameters()))
    finally:
        handle.remove()
    assert heard == ["after"]


def test_a_scheduler_hears_of_the_step():
    """It warns where it takes a step before the optimizer."""
    optimizer = Own(trained(network()).parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mtlkit.step(optimizer)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_what_stands_in_place_of_a_method_is_called():
    heard = []
    optimizer = Own(trained(network()).parameters())
    optimizer.step = lambda: heard.append("step")
    optimizer.zero_grad = lambda: heard.append("zero_grad")
    mtlkit.step(optimizer)
    assert heard == ["step", "zero_grad"]


def test_a_profiler_sees_the_step():
    optimizer = Own(trained(network()).parameters())
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        mtlkit.step(optimizer)
    assert "Optimizer.step#Own.step" in {event.key for event in seen.key_averages()}
