"""auto-lambda against its equation, differentiated twice through the trial step."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn import functional as F

from mtlkit import look_ahead
from mtlkit.errors import NonFiniteError
from mtlkit.strategies import AutoLambda

ETA = 0.2


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(name="pair")
def fixture_pair(network):
    """Return a model of three tasks in float64, and the rows and targets that are held out from it."""
    model = network(3)
    other = network(3, seed=1)

    def losses(*, held_out=False, parameters=None):
        source = other if held_out else model
        named = dict(model.named_parameters()) if parameters is None else parameters
        z = functional_call(model.encoder, part(named, "encoder."), source.rows)
        outputs = [functional_call(head, part(named, f"heads.{task}."), z) for task, head in enumerate(model.heads)]
        return [
            F.mse_loss(outputs[0], source.targets[0]),
            F.cross_entropy(outputs[1], source.targets[1].argmax(1)),
            F.smooth_l1_loss(outputs[2], source.targets[2]),
        ]

    return model, losses


def part(named, prefix):
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def exact(model, losses, weights, primary, tasks=(0, 1, 2)):
    """Return the gradient of the primary tasks' held-out losses with respect to the weights, by second derivatives."""
    named = dict(model.named_parameters())
    w = torch.tensor(weights, dtype=torch.float64, requires_grad=True)
    training = losses()
    total = sum(weight * training[task] for weight, task in zip(w, tasks, strict=True))
    gradients = torch.autograd.grad(total, list(named.values()), create_graph=True, allow_unused=True)
    after = {
        name: value if gradient is None else value - ETA * gradient
        for (name, value), gradient in zip(named.items(), gradients, strict=True)
    }
    held_out = losses(held_out=True, parameters=after)
    return torch.autograd.grad(sum(held_out[task] for task in primary), w)[0]


def step(model, losses, strategy, tasks=None):
    """Look ahead and backpropagate, and return the weights that were applied."""
    present = range(3) if tasks is None else tasks
    arguments = {} if tasks is None else {"tasks": torch.tensor(tasks)}
    ahead = look_ahead(
        strategy,
        training=lambda: [losses()[task] for task in present],
        held_out=lambda: losses(held_out=True),
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=ETA),
        **arguments,
    )
    return model.backward(strategy, tasks, ahead=ahead).weights


@pytest.mark.parametrize("primary", [None, [1], [2, 0]])
def test_the_weights_descend_on_the_held_out_losses_after_the_step(pair, primary):
    model, losses = pair
    strategy = AutoLambda(3, primary=primary, init=0.5, optimizer="sgd", lr=2.0)
    expected = vector(0.5, 0.5, 0.5)
    for _ in range(4):
        gradient = exact(model, losses, expected.tolist(), primary or [0, 1, 2])
        moved = 2.0 * gradient
        expected = expected - moved
        applied = step(model, losses, strategy)
        torch.testing.assert_close(applied, expected, rtol=0, atol=2e-3 * float(moved.abs().max()))
        assert moved.abs().max() > 1e-2  # the comparison compares something
        model.step()
        strategy.task_weights.copy_(expected)  # so that the errors of the finite difference do not add up


def test_the_finite_difference_is_that_of_the_paper(pair):
    """To rounding: (L(theta + e d) - L(theta - e d)) / 2e with e = 0.01 / ||d||, by hand."""
    model, losses = pair
    named = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    weights = [0.1, 0.1, 0.1]
    gradients = torch.autograd.grad(
        sum(w * loss for w, loss in zip(weights, losses(parameters=named), strict=True)), list(named.values())
    )
    after = {
        name: (value - ETA * gradient).detach().requires_grad_()
        for (name, value), gradient in zip(named.items(), gradients, strict=True)
    }
    d = torch.autograd.grad(sum(losses(held_out=True, parameters=after)), list(after.values()))
    e = 0.01 / torch.cat([each.flatten() for each in d]).norm()
    sides = [
        torch.stack(losses(parameters={n: v + side * e * g for (n, v), g in zip(named.items(), d, strict=True)}))
        for side in (1, -1)
    ]
    gradient = -ETA * (sides[0] - sides[1]) / (2 * e)
    applied = step(model, losses, AutoLambda(3, optimizer="sgd", lr=1.0))
    torch.testing.assert_close(applied, 0.1 - gradient.detach(), rtol=1e-10, atol=0)


def test_adam_is_the_default_and_begins_at_a_tenth():
    """The authors' 1e-4, and Adam's own equations (Kingma, Ba, ICLR 2015) by hand."""
    strategy = AutoLambda(2)
    assert strategy.weights(vector(1.0, 1.0)).weights.tolist() == [0.1, 0.1]
    mean = square = vector(0.0, 0.0)
    expected = vector(0.1, 0.1)
    for count, slope in enumerate([vector(0.3, -2e-6), vector(-0.1, 1e-6), vector(0.2, 5e-6)], 1):
        strategy.foresee(slope[None])
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        expected = expected - 1e-4 * (mean / (1 - 0.9**count)) / ((square / (1 - 0.999**count)).sqrt() + 1e-8)
        torch.testing.assert_close(strategy.weights(vector(1.0, 1.0)).weights, expected, rtol=1e-12, atol=0)


def test_a_task_that_is_absent_keeps_its_weight_and_its_memory(pair):
    model, losses = pair
    strategy = AutoLambda(3, init=0.5, optimizer="sgd", lr=2.0)
    applied = step(model, losses, strategy, [2, 0])
    gradient = exact(model, losses, [0.5, 0.5], [0, 1, 2], tasks=(2, 0))
    torch.testing.assert_close(applied, 0.5 - 2 * gradient, rtol=0, atol=4e-3 * float(gradient.abs().max()))
    assert strategy.task_weights[1] == 0.5
    adam = AutoLambda(3)
    adam.foresee(torch.ones(1, 2).double(), torch.tensor([0, 2]))
    assert adam.descent.steps.tolist() == [1, 0, 1]


def test_a_task_that_helps_outweighs_one_that_harms():
    """One auxiliary task has the primary one's targets, the other their opposite."""
    torch.manual_seed(0)
    rows, held_out = torch.randn(64, 5, dtype=torch.float64), torch.randn(64, 5, dtype=torch.float64)
    truth = torch.randn(5, dtype=torch.float64)
    theta = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = torch.optim.SGD([theta], lr=0.02)
    strategy = AutoLambda(3, ["main", "friend", "foe"], primary=["main"], lr=2e-3)

    def losses(batch):
        return [F.mse_loss(batch @ theta, sign * (batch @ truth)) for sign in (1, 1, -1)]

    for _ in range(60):
        ahead = look_ahead(
            strategy,
            training=lambda: losses(rows),
            held_out=lambda: losses(held_out),
            model=[],
            optimizer=optimizer,
        )
        optimizer.zero_grad()
        weights = strategy.weights(vector(1.0, 1.0, 1.0)).weights
        strategy.foresee(ahead.slopes)
        sum(w * loss for w, loss in zip(weights, losses(rows), strict=True)).backward()
        optimizer.step()
    main, friend, foe = strategy.task_weights.tolist()
    assert main == pytest.approx(friend, rel=1e-9)
    assert friend > 0.15
    assert foe < 0.02


def test_nothing_keeps_a_weight_above_0_but_a_floor():
    free, bounded = AutoLambda(2, lr=1.0, optimizer="sgd"), AutoLambda(2, lr=1.0, optimizer="sgd", floor=0.01)
    for strategy in (free, bounded):
        strategy.foresee(vector(0.5, -0.5)[None])
    assert free.task_weights.tolist() == pytest.approx([-0.4, 0.6])
    assert bounded.task_weights.tolist() == pytest.approx([0.01, 0.6])


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_an_outlook_that_is_not_finite_is_refused(slope):
    strategy = AutoLambda(2)
    with pytest.raises(NonFiniteError, match="Non-finite slope of task 1"):
        strategy.foresee(vector(0.1, slope)[None])
    assert strategy.task_weights.tolist() == [0.1, 0.1]
    assert strategy.descent.steps.tolist() == [0, 0]


def test_evaluation_moves_nothing():
    strategy = AutoLambda(2).eval()
    strategy.foresee(vector(0.1, 0.2)[None])
    assert strategy.task_weights.tolist() == [0.1, 0.1]


class TestPrimary:
    def test_is_every_task_by_default(self):
        assert AutoLambda(3).objectives().tolist() == [[1, 1, 1]]

    def test_is_named_by_label_or_number(self):
        strategy = AutoLambda(3, ["a", "b", "c"], primary=["c", 0])
        assert strategy.objectives().tolist() == [[1, 0, 1]]
        assert strategy.objectives(torch.tensor([1, 2])).tolist() == [[0, 1]]

    def test_asks_nothing_where_no_primary_task_is_there(self):
        strategy = AutoLambda(3, primary=[2])
        assert strategy.objectives(torch.tensor([0, 1])).shape == (0, 2)
        strategy.foresee(torch.zeros(0, 2).double(), torch.tensor([0, 1]))
        assert strategy.descent.steps.tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"primary": []}, "primary needs one task at least; leave it out for all"),
            ({"primary": [3]}, "primary names the task 3, and the tasks are numbered from 0 to 2"),
            ({"primary": [-1]}, "primary names the task -1, and the tasks are numbered from 0 to 2"),
            ({"primary": ["d"]}, "primary names the task 'd', and no labels were given"),
            (
                {"labels": ["a", "b", "c"], "primary": ["d"]},
                "primary names the task 'd', and the labels are 'a', 'b', 'c'",
            ),
            ({"floor": 0.2}, r"floor 0.2 is above init 0.1, what each weight begins at"),
        ],
    )
    def test_what_cannot_be_is_told_of(self, arguments, said):
        with pytest.raises(ValueError, match=said):
            AutoLambda(3, **arguments)


@settings(max_examples=40, deadline=None)
@given(slopes=st.lists(st.floats(-1e30, 1e30), min_size=3, max_size=3), lr=st.floats(1e-6, 1.0))
def test_a_step_of_adam_goes_against_the_slope_and_is_no_longer_than_its_rate(slopes, lr):
    strategy = AutoLambda(3, lr=lr)
    strategy.foresee(vector(*slopes)[None])
    moved = strategy.task_weights - 0.1
    assert (moved * vector(*slopes).sign() <= 0).all()
    assert (moved.abs() <= lr * (1 + 1e-6)).all()
