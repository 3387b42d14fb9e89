"""One step of training: draw the batches of its passes, backpropagate each, let the optimizer take the step."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mtlkit.engine.forward import forward_all
from mtlkit.engine.outlook import outlook
from mtlkit.errors import NonFiniteError
from mtlkit.experiment import Experiment
from mtlkit.gradients import Measurement, backward
from mtlkit.task import Split

__all__ = ["LEAST_SCALE", "Pass", "begin_step", "forward_backward", "observe", "take_step"]

LEAST_SCALE = 2.0**-10
"""What the losses are scaled by at least in float16: a gradient that overflows even so is not one of precision."""


class Pass(NamedTuple):
    """One backward pass.

    Attributes:
        tasks: The tasks that took part.
        rows: How many rows with a label each of them had.
        measured: What was measured.
        batches: The batch of each source; None for one that was not drawn.
    """

    tasks: list[int]
    rows: list[int]
    measured: Measurement
    batches: list[Split | None]


def begin_step(experiment: Experiment, step: int) -> float:
    """Thaw what is trained from this step on, set the learning rates, and return the model's."""
    if experiment.thawing is not None:
        experiment.thawing.at(step)
    factor = experiment.schedule.factor(step, experiment.plan.steps)
    for group in experiment.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(experiment.optimizer.param_groups[0]["lr"])


def forward_backward(experiment: Experiment, step: int, number: int) -> Pass | None:
    """Draw the batches of one pass of a step, and backpropagate the weighted losses.

    None where no task has a labelled row in them: absent is not a loss of zero, so nothing is done.

    Args:
        experiment: What is trained.
        step: The step, counted from 0.
        number: Which of its passes it is, counted from 0.
    """
    batches = _draw(experiment, step, number)
    ahead = outlook(experiment, batches)
    made = forward_all(experiment, batches)
    tasks = made.tasks
    if not tasks:
        return None
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    plan = experiment.plan
    measures = plan.measure_every is not None and (step + 1) % plan.measure_every == 0
    try:
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
    except NonFiniteError as error:
        raise NonFiniteError(f"{error} It was found before step {step + 1}; the weights are as they were.") from None
    penalty = experiment.model.architecture.penalty()
    if penalty is not None:
        experiment.scaler.scale(penalty.div(plan.accumulate)).backward()
    return Pass(tasks, made.rows, measurement, batches)


def _draw(experiment: Experiment, step: int, number: int) -> list[Split | None]:
    """Draw a batch of every source, or of the one that is mixed in; None for those that are not drawn."""
    plan, mixing = experiment.plan, experiment.mixing
    if mixing is None:
        return [group.stream.next() for group in experiment.groups]
    drawn = mixing.drawn(step * plan.accumulate + number, step, plan.steps)
    return [group.stream.next() if group.name == drawn else None for group in experiment.groups]


def take_step(experiment: Experiment, step: int) -> bool:
    """Clip the gradient and let the optimizer take its step; return whether it did.

    It does not where the gradient overflows in float16: the losses are then scaled by less from the next step on.

    Raises:
        NonFiniteError: If the gradient is NaN or infinite otherwise, or whatever the losses are scaled by.
    """
    optimizer, scaler = experiment.optimizer, experiment.scaler
    scaler.unscale_(optimizer)
    parameters = [p for p in experiment.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    scale = scaler.get_scale()
    if norm.isfinite():
        if experiment.plan.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, experiment.plan.clip_norm, norm)
    elif not scaler.is_enabled() or scale < LEAST_SCALE:
        raise _non_finite(experiment, step)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return scaler.get_scale() >= scale


def _non_finite(experiment: Experiment, step: int) -> NonFiniteError:
    bad = [
        name for name, p in experiment.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()
    ]
    where = f" of {', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}" if bad else ""  # noqa: PLR2004
    return NonFiniteError(
        f"Non-finite gradient{where}. It was found before step {step + 1}; the weights are as they were."
    )


@torch.no_grad()
def observe(experiment: Experiment, batches: list[Split | None]) -> None:
    """Let the strategy see what the step made of the losses of its batch."""
    made = forward_all(experiment, batches)
    tasks = made.tasks
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    experiment.strategy.observe(made.losses.double(), index)
