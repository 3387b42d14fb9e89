"""How much memory a backward pass takes at its peak, counted allocation by allocation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from mtlkit import backward
from mtlkit.gradients import BankLosses
from mtlkit.gradients.feature_rows import AT_ONCE
from mtlkit.strategies import MGDA, MGDAUB, Fixed, GradNorm, Uncertainty

TASKS, ROWS, INPUTS, WIDTH, CLASSES = 4, 256, 32, 128, 3


class Model(nn.Module):
    """An encoder whose activations weigh more than its parameters, as is usual; linear heads, or deeper ones."""

    def __init__(self, *, deep):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
        make = (
            (lambda: nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, CLASSES))) if deep else lambda: nn.Linear(WIDTH, CLASSES)
        )
        self.heads = nn.ModuleList(make() for _ in range(TASKS))
        self.rows = torch.randn(ROWS, INPUTS)
        self.targets = [torch.randint(CLASSES, (ROWS,)) for _ in range(TASKS)]

    def forward(self):
        z = self.encoder(self.rows)
        return z, [F.cross_entropy(head(z), target) for head, target in zip(self.heads, self.targets, strict=True)]

    @property
    def resident(self):
        return self.rows.nbytes + sum(parameter.nbytes for parameter in self.parameters())

    @property
    def shared(self):
        return sum(parameter.nbytes for parameter in self.encoder.parameters())


def peak(model, backpropagate):
    """Return the most bytes that there are at a time in a forward and a backward pass."""

    def run():
        z, losses = model()
        backpropagate(z, losses)
        del z, losses
        model.zero_grad()

    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    alive = most = model.resident
    for event in sorted(events, key=lambda each: each.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


class InOnePass(Model):
    """The same where each task has rows of its own, which go through the encoder as one batch."""

    def forward(self):
        n_rows = ROWS // TASKS
        features = self.encoder(self.rows).split(n_rows)
        targets = [target[:n_rows] for target in self.targets]
        return features, [F.cross_entropy(h(z), t) for h, z, t in zip(self.heads, features, targets, strict=True)]


def peaks(strategy, *, deep=False, kind=Model):
    """Return the peak of the plain loop, and that with the strategy."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(deep=deep)
    plain = peak(model, lambda z, losses: sum(losses).backward())
    weighed = peak(model, lambda z, losses: backward(losses, strategy=strategy, features=z, shared=model.encoder))
    return model, plain, weighed


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("strategy", [Fixed(TASKS), Uncertainty(TASKS, ["classification"] * TASKS)])
def test_the_losses_alone_take_no_more_than_a_plain_pass(strategy, deep):
    _, plain, weighed = peaks(strategy, deep=deep)
    assert weighed <= 1.01 * plain


def test_the_features_of_linear_heads_take_no_more_than_a_plain_pass():
    _, plain, weighed = peaks(MGDAUB(TASKS))
    assert weighed <= 1.05 * plain


def test_the_features_of_other_heads_take_a_gradient_there_for_each_task():
    _, plain, weighed = peaks(MGDAUB(TASKS), deep=True)
    assert weighed - plain <= TASKS * ROWS * WIDTH * 4 * 1.01


def test_the_last_layer_takes_a_gradient_there_for_each_task():
    _, plain, weighed = peaks(GradNorm(TASKS))
    assert weighed - plain <= TASKS * WIDTH * WIDTH * 4 + 2 * AT_ONCE


@pytest.mark.parametrize("deep", [False, True])
def test_all_parameters_take_a_gradient_for_each_task(deep):
    """And what a pass holds of its own while the graph is kept for the next one: two gradients as large as z here."""
    model, plain, weighed = peaks(MGDA(TASKS), deep=deep)
    assert weighed - plain <= (TASKS - 1) * model.shared + 2 * ROWS * WIDTH * 4


@pytest.mark.parametrize("deep", [False, True])
def test_batches_in_one_pass_take_as_much(deep):
    """What comes back to a layer is let go of once the tasks' gradients there are known."""
    for strategy in (Fixed(TASKS), MGDAUB(TASKS)):
        _, plain, weighed = peaks(strategy, deep=deep, kind=InOnePass)
        assert weighed <= 1.05 * plain
    model, plain, weighed = peaks(MGDA(TASKS), deep=deep, kind=InOnePass)
    assert weighed - plain <= TASKS * model.shared


class Banked(Model):
    """The same with the heads as one layer, and squared errors."""

    def __init__(self, *, deep):
        super().__init__(deep=deep)
        self.heads = nn.Linear(WIDTH, TASKS)
        self.wanted = torch.randn(ROWS, TASKS)

    def forward(self):
        z = self.encoder(self.rows)
        outputs = self.heads(z)
        losses = F.mse_loss(outputs, self.wanted, reduction="none").mean(0)
        every = range(TASKS)
        return z, BankLosses([str(task) for task in every], every, losses, outputs, every, 1)


def test_a_bank_holds_nothing_of_its_losses_while_its_tasks_take_their_turns():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Banked(deep=False)
    plain = peak(model, lambda z, bank: bank.losses.sum().backward())
    strategy = MGDA(TASKS)
    weighed = peak(
        model, lambda z, bank: backward([], banks=[bank], strategy=strategy, features=z, shared=model.encoder)
    )
    assert weighed - plain <= (TASKS - 1) * model.shared + 2 * ROWS * WIDTH * 4
