"""moml against its equations: autograd through the softmax and the trial step, and gamma by trying all faces."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn import functional as F

from mtlkit import look_ahead
from mtlkit.errors import NonFiniteError
from mtlkit.strategies import MOML

ETA = 0.2


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def shortest(rows):
    """Return the weights of the shortest convex combination of three vectors: the best of all faces of the simplex."""
    gramian, found = (rows @ rows.T).numpy(), []
    for face in itertools.chain(*(itertools.combinations(range(3), size) for size in (1, 2, 3))):
        ones = np.ones((len(face), 1))
        system = np.block([[gramian[np.ix_(face, face)], -ones], [ones.T, np.zeros((1, 1))]])
        solution = np.linalg.lstsq(system, np.r_[np.zeros(len(face)), 1.0])[0][:-1]
        if (solution >= 0).all():
            gamma = np.zeros(3)
            gamma[list(face)] = solution
            found.append((gamma @ gramian @ gamma, gamma))
    return torch.from_numpy(min(found, key=lambda each: each[0])[1])


@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_the_logits_descend_for_all_tasks_at_once(network, normalize):
    model, other = network(3), network(3, seed=1)
    named = dict(model.named_parameters())

    def losses(source, parameters):
        encoder, *heads = (
            {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
            for prefix in ("encoder.", "heads.0.", "heads.1.", "heads.2.")
        )
        z = functional_call(model.encoder, encoder, source.rows)
        outputs = [functional_call(head, own, z) for head, own in zip(model.heads, heads, strict=True)]
        return [
            F.mse_loss(outputs[0], source.targets[0]),
            4 * F.cross_entropy(outputs[1], source.targets[1].argmax(1)),
            F.smooth_l1_loss(outputs[2], source.targets[2]),
        ]

    strategy = MOML(3, normalize=normalize, optimizer="sgd", lr=3.0)
    alpha = vector(0.0, 0.0, 0.0)
    for _ in range(3):
        leaf = alpha.clone().requires_grad_()
        total = sum(w * loss for w, loss in zip(torch.softmax(leaf, 0), losses(model, named), strict=True))
        gradients = torch.autograd.grad(total, list(named.values()), create_graph=True)
        after = {n: v - ETA * g for (n, v), g in zip(named.items(), gradients, strict=True)}
        rows = torch.stack([torch.autograd.grad(f, leaf, retain_graph=True)[0] for f in losses(other, after)])
        gamma = shortest(rows if normalize == "none" else rows / rows.norm(dim=1, keepdim=True))
        moved = 3.0 * gamma @ rows
        alpha = alpha - moved
        ahead = look_ahead(
            strategy,
            training=lambda: losses(model, named),
            held_out=lambda: losses(other, named),
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=ETA),
        )
        applied = model.backward(strategy, ahead=ahead).weights
        torch.testing.assert_close(strategy.logits, alpha, rtol=0, atol=3e-3 * max(float(moved.abs().max()), 1e-6))
        torch.testing.assert_close(applied, torch.softmax(strategy.logits, 0))
        strategy.logits.copy_(alpha)  # so that the errors of the finite difference do not add up
        model.step()


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-2, 2), min_size=12, max_size=12))
def test_no_objective_rises_along_the_step(values):
    """MGDA's direction d has d . grad F_j >= ||d||^2 for every j, and is the shortest of a fine grid."""
    strategy = MOML(3, optimizer="sgd", lr=1.0)
    strategy.logits.copy_(vector(*values[:3]))
    slopes = vector(*values[3:]).reshape(3, 3)
    w = torch.softmax(strategy.logits, 0)
    gradients = slopes @ (torch.diag(w) - torch.outer(w, w))
    before = strategy.logits.clone()
    strategy.foresee(slopes)
    d = before - strategy.logits
    assert (gradients @ d >= d @ d - 1e-7).all()
    shares = np.linspace(0, 1, 21)
    grid = [vector(a, b, 1 - a - b) for a in shares for b in shares if a + b <= 1]
    assert min(float((gamma @ gradients).norm()) for gamma in grid) >= float(d.norm()) - 1e-7


def test_adam_is_the_default():
    strategy = MOML(2)
    strategy.foresee(torch.tensor([[-0.4, 0.0], [-0.4, 0.0]]).double())
    torch.testing.assert_close(strategy.logits, vector(1e-3, -1e-3), rtol=1e-6, atol=0)


def test_a_task_is_asked_about_by_itself():
    assert torch.equal(MOML(3).objectives(), torch.eye(3).double())
    assert torch.equal(MOML(3).objectives(torch.tensor([2, 0])), torch.eye(2).double())


def test_a_task_that_is_absent_keeps_its_logit():
    strategy = MOML(3, optimizer="sgd", lr=1.0)
    strategy.logits.copy_(vector(0.3, -0.2, 0.5))
    tasks = torch.tensor([2, 0])
    assert strategy.trial(tasks).tolist() == pytest.approx(torch.softmax(vector(0.5, 0.3), 0).tolist())
    strategy.foresee(vector(-0.4, 0.0)[None], tasks)
    w = torch.softmax(vector(0.5, 0.3), 0)
    moved = w * (vector(-0.4, 0.0) + 0.4 * w[0])  # w (slope - w . slope)
    torch.testing.assert_close(strategy.logits, vector(0.3 - moved[1], -0.2, 0.5 - moved[0]))


def test_at_a_pareto_stationary_point_nothing_moves():
    strategy = MOML(2, optimizer="sgd", lr=1.0)
    strategy.foresee(torch.tensor([[0.3, -0.3], [-0.9, 0.9]]).double())
    torch.testing.assert_close(strategy.logits, vector(0.0, 0.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_an_outlook_that_is_not_finite_is_refused(slope):
    strategy = MOML(2)
    with pytest.raises(NonFiniteError, match="Non-finite slope of task 1"):
        strategy.foresee(torch.tensor([[0.1, slope], [0.1, 0.2]]).double())
    assert strategy.logits.tolist() == [0.0, 0.0]
    assert strategy.descent.steps.tolist() == [0, 0]


def test_evaluation_moves_nothing():
    strategy = MOML(2).eval()
    strategy.foresee(torch.tensor([[0.1, 0.3], [0.1, 0.2]]).double())
    assert strategy.logits.tolist() == [0.0, 0.0]
