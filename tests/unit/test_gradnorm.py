"""GradNorm against its definition (Chen et al., ICML 2018), with the second derivative that the paper takes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from mtlkit import backward
from mtlkit.strategies import GradNorm, Needs, Over

CLASSES = 3
MODES = st.sampled_from(["adam", "sgd"])
SCALES = st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30])


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def gramian(*norms):
    """Return a Gram matrix of orthogonal gradients with these norms; gradnorm reads no more than its diagonal."""
    return torch.diag(vector(*norms) ** 2)


class Network(nn.Module):
    """A shared encoder of three layers; task t has a head, and a loss whose kind and scale depend on t."""

    def __init__(self, n_tasks, seed, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
            self.heads = nn.ModuleList([nn.Linear(4, CLASSES) for _ in range(n_tasks)])
            self.rows = torch.randn(7, 4, dtype=dtype)
            self.values = torch.randn(n_tasks, 7, CLASSES, dtype=dtype)
        self.to(dtype)

    def losses(self, features):
        return [self.loss(task, head(features)) for task, head in enumerate(self.heads)]

    def loss(self, task, output):
        target = self.values[task]
        if task % 3 == 0:
            return F.mse_loss(output, target) * (1 + task)
        if task % 3 == 1:
            return F.cross_entropy(output, target.argmax(1))
        return F.l1_loss(output, target) / (1 + task)


class DoubleBackward:
    """GradNorm as algorithm 1 states it: autograd through the norms, and a stock optimizer on the weights."""

    def __init__(self, network, *, alpha, lr, optimizer, initial):
        self.network, self.alpha = network, alpha
        self.w = torch.ones(len(network.heads), dtype=torch.float64, requires_grad=True)
        self.initial = initial
        stock = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
        self.optimizer = stock([self.w], lr=lr)

    def gradient(self, losses):
        """Return the gradient of L_grad with respect to w."""
        shared = self.network.encoder[-1].weight
        norms = torch.stack(
            [
                torch.autograd.grad(w * loss, shared, create_graph=True)[0].norm()
                for w, loss in zip(self.w, losses, strict=True)
            ]
        )
        ratios = torch.stack([loss.detach() for loss in losses]) / self.initial
        inverse_rates = ratios / ratios.mean()
        target = (norms.mean() * inverse_rates**self.alpha).detach()
        return torch.autograd.grad((norms - target).abs().sum(), self.w, retain_graph=True)[0]

    def step(self):
        """Fill the network's gradients, move the weights, and return those that the network saw."""
        losses = self.network.losses(self.network.encoder(self.network.rows))
        now = torch.stack([loss.detach() for loss in losses])
        self.initial = torch.where(self.initial.isnan(), now, self.initial)
        seen = self.w.detach().clone()
        self.w.grad = self.gradient(losses)
        sum(w * loss for w, loss in zip(seen, losses, strict=True)).backward()
        self.optimizer.step()
        with torch.no_grad():
            self.w.mul_(len(losses) / self.w.sum())
        return seen


def initial_losses(initial_loss, n_tasks):
    """Return L(0) ``[T]`` as the option says; NaN where it is the first loss seen."""
    log_classes = [math.log(CLASSES) if task % 3 == 1 else math.nan for task in range(n_tasks)]
    return vector(*(log_classes if initial_loss == "log-classes" else [math.nan] * n_tasks))


def descend(network, lr=0.05):
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.data -= lr * parameter.grad
            parameter.grad = None


@settings(max_examples=15, deadline=None)
@given(
    n_tasks=st.integers(2, 6),
    seed=st.integers(0, 2**16),
    alpha=st.sampled_from([0.0, 0.12, 0.5, 1.0, 1.5, 3.0]),
    optimizer=MODES,
    initial_loss=st.sampled_from(["first", "log-classes"]),
)
def test_the_weights_follow_double_backward(n_tasks, seed, alpha, optimizer, initial_loss):
    lr = {"adam": 0.025, "sgd": 0.01}[optimizer]
    mine = Network(n_tasks, seed)
    theirs = copy.deepcopy(mine)
    n_classes = [CLASSES if task % 3 == 1 else None for task in range(n_tasks)]
    strategy = GradNorm(n_tasks, n_classes, alpha=alpha, lr=lr, optimizer=optimizer, initial_loss=initial_loss)
    initial = initial_losses(initial_loss, n_tasks)
    reference = DoubleBackward(theirs, alpha=alpha, lr=lr, optimizer=optimizer, initial=initial)

    for _ in range(8):
        features = mine.encoder(mine.rows)
        measured = backward(mine.losses(features), strategy=strategy, features=features, shared=mine.encoder)
        seen = reference.step()
        torch.testing.assert_close(measured.weights, seen, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(strategy.task_weights, reference.w.detach(), rtol=1e-9, atol=1e-12)
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-11)
        descend(mine)
        descend(theirs)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(0.05, 20)] * 4), min_size=2, max_size=8),
    st.sampled_from([0.0, 0.5, 1.5]),
)
def test_the_balance_gradient_is_that_of_equation_2(rows, alpha):
    weights, losses, norms, initial = (vector(*column) for column in zip(*rows, strict=True))
    w = weights.clone().requires_grad_()
    ratios = losses / initial
    weighted = w * norms
    target = (weighted.mean() * (ratios / ratios.mean()) ** alpha).detach()
    (expected,) = torch.autograd.grad((weighted - target).abs().sum(), w)
    clear = (weighted - target).detach().abs() > 1e-5 * target  # at its kink the subgradient is anybody's choice

    found = vector(*GradNorm(len(rows), alpha=alpha).balance_gradient(*zip(*rows, strict=True)))
    torch.testing.assert_close(found[clear], expected[clear], rtol=1e-12, atol=0)


@pytest.mark.parametrize("n_tasks", range(1, 9))
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_tasks_that_are_equal_keep_weights_of_exactly_1(n_tasks, optimizer):
    strategy = GradNorm(n_tasks, optimizer=optimizer)
    for step in range(300):
        losses = torch.full((n_tasks,), 1 / (1 + 0.37 * step), dtype=torch.float64)
        strategy.weights(losses, torch.full((n_tasks, n_tasks), 0.1 + 1 / (3 + step), dtype=torch.float64))
    assert strategy.task_weights.tolist() == [1.0] * n_tasks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_tasks", range(1, 9))
def test_duplicates_of_a_task_keep_weights_of_exactly_1(n_tasks, dtype):
    network = Network(1, seed=n_tasks, dtype=dtype)
    strategy = GradNorm(n_tasks)
    for _ in range(60):
        features = network.encoder(network.rows)
        losses = [network.losses(features)[0] for _ in range(n_tasks)]
        backward(losses, strategy=strategy, features=features, shared=network.encoder)
        descend(network, lr=0.01)
    assert strategy.task_weights.tolist() == [1.0] * n_tasks


@pytest.mark.parametrize("n_tasks", range(2, 9))
def test_duplicates_over_a_wide_layer_keep_weights_of_exactly_1(n_tasks):
    with torch.random.fork_rng():
        torch.manual_seed(n_tasks)
        encoder, head, rows = nn.Linear(32, 100), nn.Linear(100, 1), torch.randn(16, 32)
    strategy = GradNorm(n_tasks)
    for _ in range(20):
        features = encoder(rows)
        losses = [head(features.tanh()).square().mean() for _ in range(n_tasks)]
        backward(losses, strategy=strategy, features=features, shared=encoder)
    assert strategy.task_weights.tolist() == [1.0] * n_tasks


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_slow_task_gains_weight_and_a_fast_one_loses_it(optimizer):
    strategy = GradNorm(3, alpha=1.5, optimizer=optimizer)
    strategy.weights(vector(1, 1, 1), gramian(1, 1, 1))
    for _ in range(5):
        strategy.weights(vector(0.9, 0.5, 0.1), gramian(1, 1, 1))
    slow, _, fast = strategy.task_weights.tolist()
    assert slow > 1 > fast


def test_a_task_with_a_large_gradient_loses_weight_until_the_norms_are_equal():
    strategy = GradNorm(2, alpha=0.0, lr=1e-3)
    for _ in range(4000):
        strategy.weights(vector(1, 1), gramian(3, 1))
    norms = strategy.task_weights * vector(3, 1)
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=0.02)


def test_the_model_sees_the_weights_from_before_the_step_as_constants():
    network = Network(3, seed=1)
    strategy = GradNorm(3, lr=0.1)
    for _ in range(4):
        before = strategy.task_weights.clone()
        features = network.encoder(network.rows)
        measured = backward(network.losses(features), strategy=strategy, features=features, shared=network.encoder)
        assert torch.equal(measured.weights, before)
        assert not torch.equal(strategy.task_weights, before)
        losses = network.losses(network.encoder(network.rows))
        total = sum(w * loss for w, loss in zip(before.tolist(), losses, strict=True))
        for parameter, gradient in zip(
            network.parameters(), torch.autograd.grad(total, list(network.parameters())), strict=True
        ):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)
        network.zero_grad()


def test_its_weights_are_no_affair_of_an_optimizer():
    strategy = GradNorm(2)
    assert strategy.parameter_groups() == []
    answer = strategy.weights(vector(1, 1), gramian(1, 2))
    assert not answer.weights.requires_grad
    assert answer.penalty == 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SCALES, SCALES), min_size=1, max_size=10), MODES)
def test_one_task_is_plain_training_whatever_it_does(steps, optimizer):
    strategy = GradNorm(1, optimizer=optimizer, lr=1.0)
    for loss, norm in steps:
        assert strategy.weights(vector(loss), gramian(norm)).weights.tolist() == [1.0]
    assert strategy.task_weights.tolist() == [1.0]


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 6), MODES, st.sampled_from([0.0, 1.5, 6.0]))
def test_every_scale_keeps_weights_positive_finite_and_of_sum_t(data, n_tasks, optimizer, alpha):
    strategy = GradNorm(n_tasks, optimizer=optimizer, alpha=alpha)
    for _ in range(8):
        losses, norms = (data.draw(st.lists(SCALES, min_size=n_tasks, max_size=n_tasks)) for _ in range(2))
        strategy.weights(vector(*losses), gramian(*norms))
        assert (strategy.task_weights > 0).all()
        assert strategy.task_weights.sum().item() == pytest.approx(n_tasks, rel=1e-12)
        assert all(value.isfinite().all() for value in strategy.state_dict().values())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_gradients_of_a_float32_network_are_measured(scale):
    network = Network(2, seed=3, dtype=torch.float32)
    features = network.encoder(network.rows)
    losses = [loss * factor for loss, factor in zip(network.losses(features), (scale, 1.0), strict=True)]
    strategy = GradNorm(2)
    measured = backward(losses, strategy=strategy, features=features, shared=network.encoder)

    weight = network.encoder[-1].weight
    losses = network.losses(network.encoder(network.rows))
    plain = [torch.autograd.grad(loss, weight, retain_graph=True)[0].double().norm().item() for loss in losses]
    assert measured.gradient_norms.tolist() == pytest.approx([scale * plain[0], plain[1]], rel=1e-5)
    assert strategy.task_weights.isfinite().all()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_zero_gradients_leave_the_weights_alone(optimizer):
    strategy = GradNorm(3, optimizer=optimizer)
    for loss in (1.0, 0.5, 0.0):
        strategy.weights(vector(loss, 1, 2), gramian(0, 0, 0))
    assert strategy.task_weights.tolist() == [1.0] * 3


def test_losses_that_are_all_zero_count_as_equal_rates():
    strategy = GradNorm(2)
    strategy.weights(vector(1, 1), gramian(1, 1))
    strategy.weights(vector(0, 0), gramian(1, 1))
    assert strategy.task_weights.tolist() == [1.0, 1.0]


def test_a_first_loss_of_zero_is_no_trap():
    strategy = GradNorm(2)
    strategy.weights(vector(0, 1), gramian(1, 1))
    for _ in range(50):
        strategy.weights(vector(10, 1), gramian(1, 1))
    assert strategy.task_weights.isfinite().all()
    assert strategy.task_weights[0] > strategy.task_weights[1]  # infinitely behind where it was


def test_no_weight_falls_to_zero():
    strategy = GradNorm(2, alpha=0.0, lr=10.0, optimizer="sgd")
    strategy.weights(vector(1, 1), gramian(100, 1))
    assert (strategy.task_weights > 0).all()
    assert strategy.task_weights.sum().item() == pytest.approx(2)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_tasks_that_are_absent_keep_their_state_and_their_weight(optimizer):
    strategy = GradNorm(4, optimizer=optimizer)
    for step in range(3):
        strategy.weights(vector(1, 2, 3, 4) / (1 + step), gramian(1, 2, 3, 4))
    before = copy.deepcopy(strategy.state_dict())
    present = torch.tensor([2, 0])
    answer = strategy.weights(vector(0.5, 0.7), gramian(2, 5), tasks=present)

    assert torch.equal(answer.weights, before["task_weights"][present])
    after = strategy.state_dict()
    for name, value in before.items():
        assert torch.equal(after[name][[1, 3]], value[[1, 3]]), name
    assert not torch.equal(after["task_weights"][present], before["task_weights"][present])
    kept, sum_before = after["task_weights"][present].sum().item(), before["task_weights"][present].sum().item()
    assert kept == pytest.approx(sum_before, rel=1e-14)


def test_the_order_in_which_present_tasks_are_named_does_not_matter():
    one, other = GradNorm(3), GradNorm(3)
    for step in range(1, 5):
        one.weights(vector(1, 3 / step), gramian(1, 4), tasks=torch.tensor([0, 2]))
        other.weights(vector(3 / step, 1), gramian(4, 1), tasks=torch.tensor([2, 0]))
    torch.testing.assert_close(one.task_weights, other.task_weights, rtol=1e-14, atol=0)


def test_the_first_loss_of_a_task_is_that_of_its_own_first_step():
    strategy = GradNorm(2)
    strategy.weights(vector(8), gramian(1), tasks=torch.tensor([0]))
    strategy.weights(vector(4, 3), gramian(1, 1))
    assert strategy.initial.tolist() == [8.0, 3.0]


def test_a_uniform_guess_may_stand_for_the_first_loss_of_a_classification():
    strategy = GradNorm(3, [10, None, 2], initial_loss="log-classes")
    strategy.weights(vector(5, 6, 7), gramian(1, 1, 1))
    assert strategy.initial.tolist() == pytest.approx([math.log(10), 6.0, math.log(2)])


@pytest.mark.parametrize("n_classes", [None, [None, None], [10]])
def test_a_uniform_guess_needs_a_number_of_classes(n_classes):
    with pytest.raises(ValueError, match="needs the number of classes"):
        GradNorm(2, n_classes, initial_loss="log-classes")


def test_evaluation_mode_learns_nothing():
    strategy = GradNorm(2)
    strategy.weights(vector(1, 1), gramian(1, 3))
    strategy.eval()
    before = copy.deepcopy(strategy.state_dict())
    answer = strategy.weights(vector(9, 1), gramian(3, 1))
    assert torch.equal(answer.weights, before["task_weights"])
    assert all(torch.equal(value, before[name]) for name, value in strategy.state_dict().items())


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), MODES, st.integers(0, 1000))
def test_permuting_the_tasks_permutes_the_weights(order, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    straight, permuted = GradNorm(4, optimizer=optimizer), GradNorm(4, optimizer=optimizer)
    for _ in range(6):
        losses, norms = torch.rand(2, 4, generator=generator, dtype=torch.float64) + 0.1
        straight.weights(losses, gramian(*norms.tolist()))
        permuted.weights(losses[list(order)], gramian(*norms[list(order)].tolist()))
    torch.testing.assert_close(permuted.task_weights, straight.task_weights[list(order)], rtol=1e-10, atol=0)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-6, 1e6), MODES)
def test_the_unit_of_a_loss_does_not_change_its_rate(factor, optimizer):
    one, other = GradNorm(2, optimizer=optimizer), GradNorm(2, optimizer=optimizer)
    for loss in (4.0, 3.0, 1.0):  # the gradients are held fixed: only the ratio to the first loss counts
        one.weights(vector(loss, 2), gramian(1, 2))
        other.weights(vector(loss * factor, 2), gramian(1, 2))
    torch.testing.assert_close(one.task_weights, other.task_weights, rtol=1e-10, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_restored_state_goes_on_bit_for_bit(optimizer):
    steps = [(vector(1 + k % 3, 2 / (1 + k), 0.7), gramian(1, 2 + k % 2, 0.3)) for k in range(10)]
    straight = GradNorm(3, optimizer=optimizer)
    for step in steps[:5]:
        straight.weights(*step)
    restored = GradNorm(3, optimizer=optimizer)
    restored.load_state_dict(copy.deepcopy(straight.state_dict()))
    for step in steps[5:]:
        assert torch.equal(straight.weights(*step).weights, restored.weights(*step).weights)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["losses", "gramian"])
@pytest.mark.parametrize("started", [False, True])
def test_non_finite_input_never_poisons_the_state(bad, where, started):
    strategy = GradNorm(2)
    if started:
        strategy.weights(vector(1, 2), gramian(1, 2))
    before = copy.deepcopy(strategy.state_dict())
    losses, matrix = vector(1, 1), gramian(1, 1)
    if where == "losses":
        losses[0] = bad
    else:
        matrix[0, 0] = bad if bad > 0 else math.nan  # a squared norm is never negative
    answer = strategy.weights(losses, matrix)
    assert torch.equal(answer.weights, before["task_weights"])
    for name, value in strategy.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), min_size=1, max_size=8))
def test_negative_losses_stay_finite(steps):
    strategy = GradNorm(2)
    for losses in steps:
        strategy.weights(vector(*losses), gramian(1, 2))
        assert strategy.task_weights.isfinite().all()


def test_it_asks_for_gradients_at_the_last_shared_layer():
    assert GradNorm.needs is Needs.GRAMIAN
    assert GradNorm.over is Over.LAST_SHARED
    with pytest.raises(ValueError, match="needs the Gram matrix"):
        GradNorm(2).weights(vector(1, 1))
