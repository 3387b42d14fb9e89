"""What every loss-weighting strategy has to do, tried on each of them.

A new strategy is one new row in ``STRATEGIES``: a function that builds it for the tasks with the given numbers, in the
given order, so that what it is told about a task goes with the task.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mtlkit import backward
from mtlkit.builtins import BUILTINS
from mtlkit.strategies import Fixed, GradNorm, Needs, Uncertainty

KINDS = ("regression", "classification", "laplace")


def plain_fixed(tasks):
    return Fixed(len(tasks))


def fixed(tasks):
    return Fixed(len(tasks), alpha=[1 + task / 2 for task in tasks])


def uncertainty(tasks):
    return Uncertainty(len(tasks), [KINDS[task % 3] for task in tasks])


def gradnorm(tasks):
    return GradNorm(len(tasks))


def gradnorm_sgd(tasks):
    return GradNorm(len(tasks), alpha=0.5, optimizer="sgd", lr=1e-3)


def gradnorm_log_classes(tasks):
    return GradNorm(len(tasks), [None if task % 2 else 3 + task for task in tasks], initial_loss="log-classes")


STRATEGIES = [plain_fixed, fixed, uncertainty, gradnorm, gradnorm_sgd, gradnorm_log_classes]
MAKES = pytest.mark.parametrize("make", STRATEGIES)
SCALES = [0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30]


def test_every_strategy_that_ships_is_here():
    shipped = {value.rpartition(":")[2] for kind, _, value in BUILTINS if kind == "strategies"}
    assert {type(make(range(2))).__name__ for make in STRATEGIES} == shipped


class Network(nn.Module):
    """An encoder, and for each task number a head and a loss whose kind depends on it."""

    def __init__(self, tasks, dtype=torch.float64):
        super().__init__()
        self.tasks = list(tasks)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
            heads = [nn.Linear(3, 3) for _ in range(max(tasks) + 1)]
            self.rows = torch.randn(6, 4).to(dtype)
        self.heads = nn.ModuleList([heads[task] for task in self.tasks])
        self.to(dtype)

    def losses(self, features):
        return [self.loss(task, head(features)) for task, head in zip(self.tasks, self.heads, strict=True)]

    def loss(self, task, output):
        if task % 3 == 0:
            return (output - 1 - task).square().mean()
        if task % 3 == 1:
            return F.cross_entropy(output, torch.arange(len(output)) % 3)
        return (output + task).abs().mean()

    def backward(self, strategy, present=None, **arguments):
        """Backpropagate, with only the tasks at these positions present if any are named."""
        features = self.encoder(self.rows)
        losses = self.losses(features)
        tasks = None if present is None else torch.tensor(present)
        chosen = losses if present is None else [losses[position] for position in present]
        return backward(chosen, strategy=strategy, features=features, shared=self.encoder, tasks=tasks, **arguments)

    def combination(self, weights):
        """Return sum_i w_i g_i over all parameters, from one differentiation for each task."""
        parameters = list(self.parameters())
        total = [torch.zeros_like(parameter) for parameter in parameters]
        for weight, loss in zip(weights, self.losses(self.encoder(self.rows)), strict=True):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            for place, gradient in zip(total, gradients, strict=True):
                if gradient is not None:
                    place.add_(weight * gradient)
        return total


def train(network, strategy, steps, optimizer=None):
    """Train both, and return the weights of each step."""
    optimizer = optimizer_of(network, strategy) if optimizer is None else optimizer
    weights = []
    for _ in range(steps):
        optimizer.zero_grad()
        weights.append(network.backward(strategy).weights)
        optimizer.step()
    return torch.stack(weights)


def optimizer_of(network, strategy):
    return torch.optim.Adam([{"params": list(network.parameters())}, *strategy.parameter_groups()], lr=0.01)


def answer(strategy, losses, gramian, tasks=None):
    """Ask a strategy for weights without a network."""
    losses = torch.tensor(losses, dtype=torch.float64)
    gramian = None if strategy.needs is Needs.LOSSES else gramian
    return strategy.weights(losses, gramian, tasks).weights.detach()


def state_of(strategy):
    return copy.deepcopy(strategy.state_dict())


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True)


@MAKES
def test_1_the_backward_pass_is_the_explicit_combination(make):
    tasks = range(4)
    network, strategy = Network(tasks), make(tasks)
    train(network, strategy, 3)
    network.zero_grad()
    measured = network.backward(strategy)
    for parameter, expected in zip(network.parameters(), network.combination(measured.weights), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-11, atol=1e-14)


@MAKES
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)))
def test_2_permuting_the_tasks_permutes_the_weights(make, order):
    straight = train(Network(range(4)), make(range(4)), 4)
    permuted = train(Network(order), make(order), 4)
    torch.testing.assert_close(permuted, straight[:, order], rtol=1e-8, atol=0)


@MAKES
def test_4_one_task_is_plain_training_up_to_a_factor(make):
    network, strategy = Network([0]), make([0])
    for _ in range(3):
        network.zero_grad()
        (weight,) = network.backward(strategy).weights.tolist()
        assert weight > 0
        for parameter, expected in zip(network.parameters(), network.combination([weight]), strict=True):
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-15)


@MAKES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_4_duplicates_of_a_task_are_weighed_alike(make, dtype):
    network = Network([0, 0, 0], dtype)
    network.heads = nn.ModuleList([network.heads[0]] * 3)
    for weights in train(network, make([0, 0, 0]), 5).tolist():
        assert weights == pytest.approx([weights[0]] * 3, rel=1e-6)


@MAKES
@pytest.mark.parametrize("cosine", [1.0, -1.0, 0.0])
def test_4_parallel_opposite_and_orthogonal_gradients(make, cosine):
    strategy = make(range(2))
    for _ in range(5):
        weights = answer(strategy, [1.0, 2.0], torch.tensor([[1.0, 2 * cosine], [2 * cosine, 4.0]]).double())
        assert weights.isfinite().all()


@MAKES
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_4_every_scale_gives_finite_weights(make, data):
    strategy = make(range(3))
    three = st.lists(st.sampled_from(SCALES), min_size=3, max_size=3)
    for _ in range(4):
        losses, norms = data.draw(three), torch.tensor(data.draw(three), dtype=torch.float64)
        weights = answer(strategy, losses, norms[:, None] * norms)
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert all(not value.isinf().any() for value in strategy.state_dict().values())


@MAKES
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_4_every_scale_gives_finite_gradients_in_float32(make, scale):
    network, strategy = Network(range(3), torch.float32), make(range(3))
    for _ in range(3):
        features = network.encoder(network.rows)
        losses = network.losses(features)
        losses[1] = losses[1] * scale
        measured = backward(losses, strategy=strategy, features=features, shared=network.encoder)
        assert measured.weights.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@MAKES
def test_5_a_restored_run_goes_on_bit_for_bit(make):
    tasks = range(3)
    network, strategy = Network(tasks), make(tasks)
    optimizer = optimizer_of(network, strategy)
    train(network, strategy, 4, optimizer)
    saved = io.BytesIO()
    torch.save([network.state_dict(), strategy.state_dict(), optimizer.state_dict()], saved)
    straight = train(network, strategy, 4, optimizer)

    saved.seek(0)
    restored, again = Network(tasks), make(tasks)
    optimizer = optimizer_of(restored, again)
    for part, state in zip((restored, again, optimizer), torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert torch.equal(train(restored, again, 4, optimizer), straight)
    assert_same_state(again.state_dict(), strategy.state_dict())
    assert_same_state(restored.state_dict(), network.state_dict())


@MAKES
def test_5_its_state_is_in_float64(make):
    assert all(value.dtype is torch.float64 for value in make(range(3)).state_dict().values())


@MAKES
@pytest.mark.parametrize("present", [[0], [1, 3], [3, 0, 2]])
def test_6_a_task_that_is_absent_is_left_out(make, present):
    tasks = range(4)
    network, strategy = Network(tasks), make(tasks)
    train(network, strategy, 3)
    network.zero_grad()
    strategy.zero_grad()
    before, absent = state_of(strategy), [task for task in tasks if task not in present]
    optimizer = torch.optim.AdamW(strategy.parameter_groups() or [nn.Parameter(torch.ones(()))], lr=0.1)
    measured = network.backward(strategy, present)
    optimizer.step()

    for name, value in strategy.state_dict().items():
        task = name.rpartition(".")[2]
        if task.isdecimal():  # one tensor for each task
            assert torch.equal(value, before[name]) or int(task) not in absent, name
        else:
            assert torch.equal(value[absent], before[name][absent]), name
    expected = torch.zeros(4, dtype=torch.float64)
    expected[present] = measured.weights
    for parameter, gradient in zip(network.parameters(), network.combination(expected), strict=True):
        torch.testing.assert_close(
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad, gradient, rtol=1e-10, atol=1e-13
        )


@MAKES
def test_6_a_task_that_was_absent_weighs_what_it_did(make):
    tasks = range(3)
    network, strategy = Network(tasks), make(tasks)
    train(network, strategy, 3)
    before = copy.deepcopy(strategy).eval()
    network.backward(strategy, [0, 2])
    strategy.eval()
    assert network.backward(strategy).weights[1] == network.backward(before).weights[1]


@MAKES
def test_7_the_weights_returned_are_the_weights_applied(make):
    tasks = range(3)
    strategy = make(tasks)
    preference = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    for _ in range(5):
        leaves = [nn.Parameter(torch.tensor(0.5 + task, dtype=torch.float64)) for task in tasks]
        layer = nn.Linear(1, 1).double()
        z = layer(torch.ones(1, 1, dtype=torch.float64))
        losses = [leaf + 0 * z.sum() + task * (z - z.detach()).sum() for task, leaf in enumerate(leaves)]
        measured = backward(losses, strategy=strategy, features=z, shared=layer, preference=preference)
        assert [leaf.grad.item() for leaf in leaves] == pytest.approx(measured.weights.tolist(), rel=1e-12)


@MAKES
def test_evaluation_mode_changes_no_state(make):
    network, strategy = Network(range(3)), make(range(3))
    train(network, strategy, 2)
    strategy.eval()
    before = state_of(strategy)
    network.backward(strategy)
    assert_same_state(strategy.state_dict(), before)


@MAKES
def test_a_gramian_or_losses_in_hand_are_not_changed(make):
    strategy = make(range(2))
    losses, gramian = torch.tensor([1.0, 2.0]).double(), torch.tensor([[1.0, 0.5], [0.5, 9.0]]).double()
    for _ in range(3):
        strategy.weights(losses, None if strategy.needs is Needs.LOSSES else gramian)
    assert losses.tolist() == [1.0, 2.0]
    assert gramian.tolist() == [[1.0, 0.5], [0.5, 9.0]]


@MAKES
def test_random_state_is_left_alone(make):
    before = torch.get_rng_state()
    strategy = make(range(2))
    answer(strategy, [1.0, 2.0], torch.eye(2).double())
    assert torch.equal(torch.get_rng_state(), before)


@MAKES
def test_it_needs_at_least_one_task(make):
    with pytest.raises(ValueError, match=r"at least 1; received 0|needs the number of classes"):
        make(range(0))


@MAKES
def test_what_it_learns_is_not_decayed(make):
    groups = make(range(2)).parameter_groups()
    assert all(group["weight_decay"] == 0 for group in groups)
