"""One step of training: draw the batches of its passes, backpropagate each, let the optimizer take the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtlkit.engine.forward import forward_all
from mtlkit.engine.outlook import draw_held_out, outlook
from mtlkit.errors import NonFiniteError
from mtlkit.experiment import Experiment
from mtlkit.gradients import Measurement, backward
from mtlkit.stepping import step
from mtlkit.task import Split

__all__ = ["LEAST_SCALE", "Drawn", "LeftOut", "Pass", "begin_step", "draw", "forward_backward", "observe", "take_step"]

LEAST_SCALE = 2.0**-10
"""What the losses are scaled by at least in float16: a gradient that overflows even so is not one of precision."""


class Drawn(NamedTuple):
    """What one pass of a step draws.

    Attributes:
        batches: The batch of each source; None for one that was not drawn.
        held_out: The held-out batch of each source, where the strategy looks ahead.
        places: Where each source's stream was before; None for one that was not drawn.
    """

    batches: list[Split | None]
    held_out: list[Split]
    places: Sequence[Mapping[str, Any] | None]


class LeftOut(NamedTuple):
    """The tasks that are left out of a pass, as if they had no labels in it, by their indices.

    Attributes:
        training: Of its batches.
        held_out: Of its held-out rows.
    """

    training: AbstractSet[int] = frozenset()
    held_out: AbstractSet[int] = frozenset()


NOTHING = LeftOut()


class Pass(NamedTuple):
    """One backward pass.

    Attributes:
        tasks: The tasks that took part.
        rows: How many rows with a label each of them had.
        measured: What was measured.
        batches: The batch of each source; None for one that was not drawn.
        without: The tasks that were left out.
    """

    tasks: list[int]
    rows: list[int]
    measured: Measurement
    batches: list[Split | None]
    without: AbstractSet[int]


def begin_step(experiment: Experiment, step: int) -> float:
    """Thaw what is trained from this step on, set the learning rates, and return the model's."""
    if experiment.thawing is not None:
        experiment.thawing.at(step)
    factor = experiment.schedule.factor(step, experiment.plan.steps)
    for group in experiment.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(experiment.optimizer.param_groups[0]["lr"])


def draw(experiment: Experiment, step: int, number: int) -> Drawn:
    """Draw a batch of every source, or of the one that is mixed in.

    Args:
        experiment: What is trained.
        step: The step, counted from 0.
        number: Which of its passes it is, counted from 0.
    """
    plan, mixing, groups = experiment.plan, experiment.mixing, experiment.groups
    name = None if mixing is None else mixing.drawn(step * plan.accumulate + number, step, plan.steps)
    is_drawn = [mixing is None or group.name == name for group in groups]
    places = [group.stream.state() if drawn else None for group, drawn in zip(groups, is_drawn, strict=True)]
    batches = [group.stream.next() if drawn else None for group, drawn in zip(groups, is_drawn, strict=True)]
    return Drawn(batches, draw_held_out(experiment) if experiment.strategy.looks_ahead else [], places)


def forward_backward(
    experiment: Experiment, step: int, number: int, *, drawn: Drawn | None = None, left_out: LeftOut = NOTHING
) -> Pass | None:
    """Backpropagate the weighted losses of one pass of a step.

    None where no task has a labelled row in its batches: absent is not a loss of zero, so nothing is done.

    Args:
        experiment: What is trained.
        step: The step, counted from 0.
        number: Which of its passes it is, counted from 0.
        drawn: Its batches; drawn here by default.
        left_out: The tasks that take no part.

    Raises:
        NonFiniteError: As :func:`~mtlkit.gradients.backward` and :func:`~mtlkit.gradients.look_ahead`.
    """
    drawn = draw(experiment, step, number) if drawn is None else drawn
    ahead = outlook(
        experiment, drawn.batches, drawn.held_out, without=left_out.training, without_held_out=left_out.held_out
    )
    made = forward_all(experiment, drawn.batches, without=left_out.training)
    tasks = made.tasks
    if not tasks:
        return None
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    plan = experiment.plan
    measures = plan.measure_every is not None and (step + 1) % plan.measure_every == 0
    measurement = backward(
        {experiment.tasks[each.task].label: each.loss for each in made.single},
        strategy=experiment.strategy,
        features=made.features,
        shared=experiment.model,
        preference=experiment.weights if index is None else experiment.weights[index],
        tasks=index,
        scale=1 / plan.accumulate,
        loss_scale=experiment.scaler,
        heads=plan.heads,
        measure=plan.measure_over if measures else None,
        ahead=ahead,
        banks=made.bank_losses,
    )
    penalty = experiment.model.architecture.penalty()
    if penalty is not None:
        experiment.scaler.scale(penalty.div(plan.accumulate)).backward()
    return Pass(tasks, made.rows, measurement, drawn.batches, left_out.training)


def take_step(experiment: Experiment) -> bool:
    """Clip the gradient and let the optimizer take its step; return whether it did.

    It does not where the gradient overflows in float16: the losses are then scaled by less from the next step on.

    Raises:
        NonFiniteError: If the gradient is NaN or infinite otherwise, or whatever the losses are scaled by.
    """
    optimizer, scaler = experiment.optimizer, experiment.scaler
    scaler.unscale_(optimizer)
    parameters = [p for p in experiment.model.parameters() if p.grad is not None]
    norm = _norm(parameters)
    scale = scaler.get_scale()
    if norm.isfinite():
        if experiment.learned and not _norm(experiment.learned).isfinite():
            scaler.update(scale)  # as it is, but it forgets this gradient
            raise NonFiniteError("Non-finite gradient of what the strategy learns.", what="gradient")
        if experiment.plan.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, experiment.plan.clip_norm, norm)
    elif not scaler.is_enabled() or scale < LEAST_SCALE:
        scaler.update(scale)
        raise NonFiniteError("Non-finite gradient.", what="gradient")
    if not scaler.is_enabled():
        step(optimizer)
        return True
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return scaler.get_scale() >= scale


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def observe(experiment: Experiment, last: Pass) -> None:
    """Let the strategy see what the step made of the losses of its last pass.

    Raises:
        NonFiniteError: If a loss is NaN or infinite by now, and the strategy minds.
    """
    made = forward_all(experiment, last.batches, without=last.without)
    tasks = made.tasks
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    experiment.strategy.observe(made.losses.double(), index)
