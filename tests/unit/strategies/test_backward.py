"""What mtlkit.backward makes of every strategy's answer, with each thing that a loop may ask of it.

The answer is worked out from dense gradients by a copy of the strategy; that it is the right one, the other files show.
"""

from __future__ import annotations

import copy
import importlib
import warnings

import pytest
import torch
from torch import nn

from mtlkit import backward
from mtlkit.builtins import BUILTINS
from mtlkit.strategies import DBMTL, IMTLL, ExcessMTL, Fixed, MoCo, Needs, Over, Strategy, Uncertainty, Weighting
from mtlkit.testing.strategies import maker_of
from mtlkit.testing.subject import Subject

PATHS = {name: path for kind, name, path in BUILTINS if kind == "strategies"}
LAST = slice(30, 60)  # where the last shared layer's weights lie among the encoder's parameters


def made(name, tasks=range(3)):
    """Return a strategy of this name, with its defaults."""
    module, _, attribute = PATHS[name].partition(":")
    return maker_of(Subject.of(getattr(importlib.import_module(module), attribute)))(tasks)


def named(*needs):
    return [name for name in PATHS if made(name).needs in needs]


every = pytest.mark.parametrize("name", PATHS)


def step(model, strategy, **arguments):
    """Take a step as a run does."""
    measured = model.backward(strategy, **arguments)
    model.step()
    if strategy.watches_step:
        with torch.no_grad():
            strategy.observe(torch.stack(model.losses(model.encoder(model.rows))))
    strategy.end_epoch()
    return measured


def foretell(strategy, model, tasks=None):
    """Tell a strategy that looks ahead what it is told before it is asked."""
    if strategy.looks_ahead:
        ahead = model.look_ahead(strategy, tasks)
        strategy.foresee(ahead.slopes, ahead.tasks)


def answer_of(strategy, dense, tasks=None, preference=None):
    """Return what a strategy answers to dense gradients."""
    present = None if tasks is None else torch.tensor(tasks)
    rows = {
        None: dense.rows,
        Over.PARAMETERS: dense.rows,
        Over.FEATURES: dense.features,
        Over.LAST_SHARED: dense.rows[:, LAST],
    }[strategy.over]
    if strategy.needs is Needs.JACOBIAN:
        return strategy.combine(dense.losses, rows * (1 if preference is None else preference[:, None]), present)
    return strategy.weights(dense.losses, rows @ rows.T if strategy.over else None, present)


MODES = {
    "plainly": {},
    "with a preference": {"preference": torch.tensor([2.0, 0.25, 3.0], dtype=torch.float64)},
    "accumulating": {"scale": 0.25},
    "for half precision": {"loss_scale": 1024.0},
    "with plain heads": {"heads": "plain"},
    "with a task absent": {"tasks": [2, 0]},
    "altogether": {
        "preference": torch.tensor([2.0, 0.25], dtype=torch.float64),
        "scale": 0.25,
        "loss_scale": 1024.0,
        "heads": "plain",
        "tasks": [0, 2],
    },
}


@pytest.mark.parametrize("mode", MODES)
@every
def test_what_it_answers_is_what_every_parameter_gets(network, name, mode):
    model, strategy, arguments = network(3, seed=28), made(name), MODES[mode]
    for _ in range(3):
        step(model, strategy)
    strategy.zero_grad()
    tasks, preference = arguments.get("tasks"), arguments.get("preference")
    dense, reference = model.dense(tasks), copy.deepcopy(strategy)
    foretell(reference, model, tasks)
    answer = answer_of(reference, dense, tasks, preference)
    liked = torch.ones(len(dense.losses)).double() if preference is None else preference
    factor = arguments.get("scale", 1.0) * arguments.get("loss_scale", 1.0)
    weights = answer.weights.detach() * liked
    if answer.direction is None:
        expected = weights @ dense.rows
    else:
        expected = model.pulled(answer.direction) if strategy.over is Over.FEATURES else answer.direction
    at_heads = weights if answer.head_weights is None else answer.head_weights * liked
    if "heads" in arguments:
        at_heads = liked

    measured = model.backward(strategy, **arguments)

    model.assert_shared(expected * factor, rtol=1e-6, atol=1e-7 * factor)
    for dense_heads in dense.heads:
        for gradient in dense_heads:
            gradient.mul_(factor)
    torch.testing.assert_close(measured.weights, weights, rtol=1e-7, atol=1e-10)
    if strategy.over is None or "heads" in arguments:
        model.assert_heads(at_heads, dense, tasks)
    else:  # the weights are those of a Gram matrix that was rounded otherwise
        given = measured.weights if answer.head_weights is None else at_heads
        model.assert_heads(given, dense, tasks)

    learned = list(reference.parameters())
    if learned:
        ((answer.weights * dense.losses).sum() + answer.penalty).mul(factor).backward()
    for own, other in zip(strategy.parameters(), learned, strict=True):
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-9, atol=1e-12)


@every
def test_the_scale_for_half_precision_is_seen_by_no_strategy(network, name):
    """A power of 2 is exact, so that all must be the same to the bit but for that factor."""
    plain, scaled = network(3, seed=28), network(3, seed=28)
    strategies = made(name), made(name)
    for _ in range(3):
        found = [
            plain.backward(strategies[0], measure=Over.PARAMETERS).weights,
            scaled.backward(strategies[1], measure=Over.PARAMETERS, loss_scale=2.0**16).weights,
        ]
        assert torch.equal(*found)
        learned = zip(strategies[0].parameters(), strategies[1].parameters(), strict=True)
        for one, other in [*zip(plain.parameters(), scaled.parameters(), strict=True), *learned]:
            assert torch.equal(other.grad, one.grad * 2.0**16)
            other.grad.div_(2.0**16)
        plain.step()
        scaled.step()
        for strategy in strategies:
            strategy.zero_grad()  # a gradient left from this round would be in the next one's without the scale
    for (key, one), other in zip(strategies[0].state_dict().items(), strategies[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("name", named(Needs.GRAMIAN, Needs.JACOBIAN))
def test_an_overflow_leaves_the_strategy_alone(network, name):
    model = network(3, seed=28, dtype=torch.float32)
    strategy = made(name)
    model.backward(strategy)
    before = {key: value.clone() for key, value in strategy.state_dict().items()}
    model.scales[1] = 1e5
    measured = model.backward(strategy, loss_scale=2.0**127)
    assert measured.weights.tolist() == [1.0, 1.0, 1.0]
    assert measured.gramian is None
    assert not model.shared_gradient.isfinite().all()  # which GradScaler looks for
    for key, value in strategy.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True, msg=key)


@pytest.mark.parametrize("strategy", [IMTLL(3), Uncertainty(3, ["regression", "classification", "laplace"]), DBMTL(3)])
def test_a_grad_scaler_steps_the_model_and_the_strategy_as_without_one(network, strategy):
    ends = []
    for scaled in (False, True):
        model, own = network(3, dtype=torch.float32), copy.deepcopy(strategy)
        groups = [{"params": list(model.parameters())}, *own.parameter_groups()]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        for _ in range(3):
            own.zero_grad()
            model.backward(own, loss_scale=scaler.scale(torch.ones(())).item())
            scaler.step(optimizer)
            scaler.update()
        ends.append([parameter.detach() for parameter in [*model.parameters(), *own.parameters()]])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


@every
def test_one_task_is_trained_along_its_gradient(network, name):
    model, strategy = network(1, seed=28), made(name, range(1))
    for _ in range(3):
        dense = model.dense()
        model.backward(strategy)
        cosine = torch.cosine_similarity(model.shared_gradient, dense.rows[0], dim=0)
        assert cosine > (1 - 1e-9 if isinstance(strategy, ExcessMTL) or strategy.needs is not Needs.JACOBIAN else 0.9)
        model.step(0.01)


@pytest.mark.parametrize("case", ["distinct", "alike", "parallel"])
@every
def test_float32_gives_the_step_of_float64(network, name, case):
    alike = {} if case == "distinct" else {1: 0}
    scales = [1.0, 3.3, 1.0] if case == "parallel" else None
    steps = []
    for dtype in (torch.float32, torch.float64):
        model = network(3, seed=28, dtype=dtype, alike=alike, scales=scales)
        model.backward(made(name))
        steps.append(model.shared_gradient.double())
    assert (steps[0] - steps[1]).norm() < 1e-3 * steps[1].norm()


@pytest.mark.parametrize("over", list(Over))
@pytest.mark.parametrize("name", named(Needs.LOSSES))
def test_gradients_are_measured_for_a_strategy_that_needs_none(network, name, over):
    model, other = network(3, seed=5), network(3, seed=5)
    dense = model.dense()
    rows = {Over.PARAMETERS: dense.rows, Over.FEATURES: dense.features, Over.LAST_SHARED: dense.rows[:, LAST]}[over]
    norms = rows.norm(dim=1)
    measured = model.backward(made(name), measure=over)
    torch.testing.assert_close(measured.gramian, rows @ rows.T)
    torch.testing.assert_close(measured.gradient_norms, norms)
    torch.testing.assert_close(measured.cosines, rows @ rows.T / norms / norms[:, None])
    conflicts = [bool(rows[i] @ rows[j] < 0) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert measured.conflicts == pytest.approx(sum(conflicts) / 3)
    assert any(conflicts)

    unmeasured = other.backward(made(name))
    assert unmeasured.gramian is None
    assert unmeasured.cosines is None
    assert unmeasured.conflicts is None
    assert torch.equal(unmeasured.weights, measured.weights)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-10, atol=1e-13)


def test_a_pair_with_a_zero_gradient_has_cosine_0_and_one_task_no_conflicts(network):
    model = network(2, scales=[0.0, 1.0])
    measured = model.backward(Fixed(2), measure=Over.PARAMETERS)
    assert measured.cosines.tolist() == [[0.0, 0.0], [0.0, pytest.approx(1.0)]]
    assert measured.conflicts == 0.0
    assert network(1).backward(Fixed(1), measure=Over.PARAMETERS).conflicts is None


class Directed(Strategy):
    """Weights of 2 and 3, heads' weights of 5 and 7, and a direction of its own at the last shared layer."""

    needs = Needs.JACOBIAN
    over = Over.LAST_SHARED

    def combine(self, losses, jacobian, tasks=None):
        self.seen = jacobian.clone()
        weights, heads = torch.tensor([[2.0, 3.0], [5.0, 7.0]], dtype=torch.float64)
        return Weighting(weights, head_weights=heads, direction=torch.linspace(-1, 1, 30, dtype=torch.float64))


@pytest.mark.parametrize("after", [nn.Identity, nn.Tanh, nn.Sigmoid])
def test_a_direction_at_the_last_shared_layer_is_what_its_weights_get(network, after):
    model, strategy = network(2), Directed(2)
    z = after()(model.encoder(model.rows))
    losses = model.losses(z)
    shared = list(model.encoder.parameters())
    rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    backward(losses, strategy=strategy, features=z, shared=model.encoder, scale=0.5, loss_scale=4.0)
    torch.testing.assert_close(strategy.seen, torch.stack([row[2].flatten() for row in rows]))
    for place, parameter in enumerate(shared):
        expected = 2 * rows[0][place] + 3 * rows[1][place]
        if place == 2:
            expected = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(5, 6)
        torch.testing.assert_close(parameter.grad, 0.5 * 4.0 * expected)


class Branched(nn.Module):
    """Two layers in a row; one task reads the first, one the second, and one both, the later one first."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 3).double(), nn.Linear(3, 3).double()
            self.rows = torch.randn(5, 4).double()

    def loss(self, task):
        first = self.first(self.rows)
        if task == 0:
            return first.square().mean()
        second = self.second(first.tanh())
        return second.exp().mean() if task == 1 else (second.sin() + first.cos()).square().mean()

    def row(self, task):
        found = torch.autograd.grad(self.loss(task), list(self.parameters()), allow_unused=True)
        each = zip(found, self.parameters(), strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in each])


@pytest.mark.parametrize("strategy", [DBMTL(3), MoCo(3), ExcessMTL(3)], ids=lambda each: type(each).__name__)
def test_what_is_remembered_of_a_parameter_stays_with_it_whichever_tasks_are_present(strategy):
    """Tasks need not reach the same parameters, nor in the same order."""
    model, strategy = Branched(), copy.deepcopy(strategy)
    reference = copy.deepcopy(strategy)
    for tasks in ([0], [1, 0], [2, 1], [1], [0, 2], [0, 1, 2]):
        losses, rows = [model.loss(task) for task in tasks], torch.stack([model.row(task) for task in tasks])
        present = torch.tensor(tasks)
        answer = reference.combine(torch.stack(losses).detach(), rows.clone(), present)
        expected = answer.weights @ rows if answer.direction is None else answer.direction
        model.zero_grad()
        measured = backward(losses, strategy=strategy, shared=model, tasks=present)
        torch.testing.assert_close(measured.weights, answer.weights)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        torch.testing.assert_close(torch.cat([each.flatten() for each in found]), expected)
        assert (model.second.weight.grad is None) == (tasks == [0])
