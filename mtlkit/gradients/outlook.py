"""The outlook of a pass, by ``look_ahead``: how the losses of held-out rows would answer to the weights of the step.

Letters: theta, all that the optimizer moves; eta, its learning rate; w, the weights of the K tasks present; L_i their
losses on the training batch; F_m the M objectives, sums of losses on the held-out batch. A trial step leads to

    theta' = theta - eta (sum_i w_i grad L_i(theta) + mu b + delta theta)

with the momentum mu b and the weight decay delta theta, neither of which depends on w. Hence the derivative

    dF_m(theta')/dw_i = -eta grad L_i(theta) . d_m,    d_m = grad F_m(theta')

needs no second derivative: it is a slope of L_i, and two evaluations tell it, as in DARTS (Liu, Simonyan, Yang, ICLR
2019, equation 8, there for a second derivative):

    grad L_i(theta) . d_m = (L_i(theta + e d_m) - L_i(theta - e d_m)) / 2e,    e = 0.01 / ||d_m||
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtlkit.errors import NonFiniteError
from mtlkit.gradients.differentiation import differentiate
from mtlkit.gradients.losses import Losses, check, names_of, single
from mtlkit.strategies.base import Strategy

__all__ = ["Outlook", "look_ahead"]

Gradient = Sequence[Tensor | None]

RADIUS = 0.01
"""How far from theta the losses are evaluated, to either side."""


@dataclass(frozen=True)
class Outlook:
    """What one look ahead saw.

    Attributes:
        slopes: The derivative of each objective with respect to each task's weight ``[M, K]``, in float64 on the CPU;
            NaN or infinite where the trial step led too far for it to be told.
        tasks: The indices of the tasks present in the training batch ``[K]``; None where all were.
    """

    slopes: Tensor
    tasks: Tensor | None = None


def look_ahead(
    strategy: Strategy,
    *,
    training: Callable[[], Losses],
    held_out: Callable[[], Losses],
    model: nn.Module | Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    tasks: Tensor | None = None,
    held_out_tasks: Tensor | None = None,
) -> Outlook:
    """Measure what a strategy that looks ahead has to know before a step; :func:`backward` hands it over.

    Call it before the training batch's forward pass. It runs the training batch once forwards and backwards, the
    held-out batch likewise, but backwards once for each of the M objectives, and the training batch 2M times more
    forwards. The trial step is gradient descent with the learning rates, momentum and weight decay of the optimizer,
    whichever optimizer it is: nothing is clipped, averaged or scaled.

    Nothing is changed by it: parameters, buffers such as the statistics of batch normalisation, and random state are
    put back bit for bit, and no ``.grad`` is touched. Each run of the training batch draws the random numbers, as of
    dropout, that the forward pass after it will draw. Autocast is off, since losses are compared that differ by little;
    the functions should not turn it on. Memory: 1 + M gradients, and a copy of the parameters.

    Args:
        strategy: What weighs the losses.
        training: Returns the losses of the training batch, one scalar for each task present in it. Where
            :func:`backward` is given a preference, they are multiplied by it.
        held_out: Returns those of the held-out batch.
        model: The modules that both run, whose buffers are put back.
        optimizer: What will take the step. It moves the parameters that it holds and that the losses reach.
        tasks: The indices of the tasks present in the training batch ``[K]``; None where all are.
        held_out_tasks: The indices of the tasks present in the held-out batch ``[H]``; None where all are.

    Returns:
        What is to be passed to :func:`backward` as ``ahead``.

    Raises:
        ValueError: If the strategy does not look ahead, the optimizer moves nothing, or the losses are not one scalar
            for each task present.
        NonFiniteError: If a loss of the training batch or its gradient is NaN or infinite, or a held-out loss is after
            the trial step.
    """
    if not strategy.looks_ahead:
        raise ValueError(f"{type(strategy).__name__} does not look ahead: backward() needs nothing more for it")
    moving = _moving(optimizer, strategy)
    weights = strategy.trial(tasks).detach()  # [K]
    objectives = strategy.objectives(held_out_tasks).detach()  # [M, H]
    _check_answers(strategy, weights, tasks, objectives, held_out_tasks)
    slopes = torch.zeros(len(objectives), len(weights), dtype=torch.float64)
    if not len(objectives):
        return Outlook(slopes, tasks)
    random = _RandomState(moving)
    with _kept(moving, model), torch.autocast(moving[0].parameter.device.type, enabled=False):
        try:
            (gradient,) = _gradients("loss", training, weights[None], moving, strategy, tasks)
            _check_gradient(gradient)
            _take_trial_step(moving, gradient)
            seen = _gradients("held-out loss", held_out, objectives, moving, strategy, held_out_tasks)
            for row, direction in enumerate(seen):
                slopes[row] = _slopes(training, direction, moving, random)
        finally:
            random.restore()
    return Outlook(slopes, tasks)


def _check_answers(
    strategy: Strategy, weights: Tensor, tasks: Tensor | None, objectives: Tensor, held_out_tasks: Tensor | None
) -> None:
    for answer, shape, present in ((weights, (), tasks), (objectives, objectives.shape[:1], held_out_tasks)):
        expected = (*shape, strategy.n_tasks if present is None else len(present))
        if answer.shape != expected:
            what = "trial() gave weights" if answer is weights else "objectives() gave factors"
            raise ValueError(
                f"{type(strategy).__name__}.{what} of shape {tuple(answer.shape)}, and shape {tuple(expected)} was to "
                f"be expected with {expected[-1]} tasks present"
            )


class _Moving(NamedTuple):
    """A parameter that the optimizer moves.

    Attributes:
        parameter: The parameter.
        origin: What it was.
        rate: Its learning rate.
        drift: What moves it beside its gradient, the momentum and the decay; None for nothing.
    """

    parameter: Tensor
    origin: Tensor
    rate: float
    drift: Tensor | None


def _moving(optimizer: torch.optim.Optimizer, strategy: Strategy) -> list[_Moving]:
    learned = {id(parameter) for parameter in strategy.parameters()}
    moving = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in learned or not parameter.requires_grad:
                continue
            drift = None
            momentum, buffer = group.get("momentum", 0), optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum and buffer is not None:
                drift = momentum * buffer
            if group.get("weight_decay", 0):
                decay = group["weight_decay"] * parameter.detach()
                drift = decay if drift is None else drift + decay
            moving.append(_Moving(parameter, parameter.detach().clone(), float(group["lr"]), drift))
    if not moving:
        raise ValueError("the optimizer holds no parameter that requires a gradient, so no step leads anywhere")
    return moving


def _gradients(
    what: str,
    losses_of: Callable[[], Losses],
    sums: Tensor,
    moving: Sequence[_Moving],
    strategy: Strategy,
    tasks: Tensor | None,
) -> list[Gradient]:
    """Run a batch, and return the gradient of each weighted sum of its losses ``[M, K]``."""
    given = losses_of()
    losses = single(given)
    check(given, losses, strategy, tasks, None)
    _check_finite(what, names_of(given, len(losses)), losses, (sums != 0).any(0).tolist())
    parameters = [each.parameter for each in moving]
    made: list[Gradient] = []
    for weights in sums.tolist():
        chosen = [(loss, weight) for loss, weight in zip(losses, weights, strict=True) if weight != 0]
        if chosen:
            factors = [torch.full_like(loss, weight) for loss, weight in chosen]
            made.append(differentiate([loss for loss, _ in chosen], parameters, factors))
        else:
            made.append([None] * len(parameters))
    return made


def _check_finite(what: str, names: Sequence[str], losses: Sequence[Tensor], counted: Sequence[bool]) -> None:
    """Refuse losses that are not finite, but for those that count in none of the sums."""
    values = torch.stack([loss.detach() for loss in losses]).tolist()
    places = [place for place, value in enumerate(values) if counted[place] and not math.isfinite(value)]
    if places:
        bad = ", ".join(f"{names[place]} ({values[place]})" for place in places)
        after = "" if what == "loss" else " after the trial step, which a lower learning rate makes shorter"
        raise NonFiniteError(f"Non-finite {what} of {bad}{after}.", what=what, places=places)


def _check_gradient(gradient: Gradient) -> None:
    finite = [part.isfinite().all() for part in gradient if part is not None]
    if finite and not torch.stack(finite).all():
        raise NonFiniteError("Non-finite gradient of the weighted losses of the training batch.", what="gradient")


@torch.no_grad()
def _take_trial_step(moving: Sequence[_Moving], gradient: Gradient) -> None:
    """Move the parameters; one that has no gradient stays, as an optimizer has it."""
    for (parameter, _, rate, drift), part in zip(moving, gradient, strict=True):
        if part is not None:
            parameter.sub_(rate * (part if drift is None else part + drift))


@torch.no_grad()
def _slopes(
    training: Callable[[], Losses], gradient: Gradient, moving: Sequence[_Moving], random: _RandomState
) -> Tensor:
    """Return the derivative with respect to each weight ``[K]`` of an objective whose gradient is given.

    NaN where it cannot be told; 0 where the objective has a gradient of 0, or there is no step to take.
    """
    direction = [None if part is None else each.rate * part for part, each in zip(gradient, moving, strict=True)]
    norm = float(torch.nn.utils.get_total_norm([part for part in direction if part is not None]))
    if norm == 0 or not math.isfinite(norm):
        return torch.tensor(0.0 if norm == 0 else math.nan)
    sides = []
    for side in (RADIUS, -RADIUS):
        for (parameter, origin, *_), part in zip(moving, direction, strict=True):
            parameter.copy_(origin if part is None else origin + part * (side / norm))
        random.restore()
        sides.append(torch.stack([loss.detach() for loss in single(training())]).to("cpu", torch.float64))
    return (sides[1] - sides[0]) * (norm / (2 * RADIUS))


@contextmanager
def _kept(moving: Sequence[_Moving], model: nn.Module | Sequence[nn.Module]) -> Iterator[None]:
    """Put back parameters and buffers, bit for bit, whatever happens meanwhile."""
    modules = [model] if isinstance(model, nn.Module) else list(model)
    buffers = [buffer for module in modules for buffer in module.buffers()]
    copies = [buffer.detach().clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, origin, *_ in moving:
                parameter.copy_(origin)
            for buffer, copy in zip(buffers, copies, strict=True):
                buffer.copy_(copy)


class _RandomState:
    """The state of torch's generators, on the CPU and wherever the parameters are."""

    def __init__(self, moving: Sequence[_Moving]) -> None:
        self.cpu = torch.get_rng_state()
        devices = {each.parameter.device for each in moving if each.parameter.device.type == "cuda"}
        self.cuda = [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda:
            torch.cuda.set_rng_state(state, device)
