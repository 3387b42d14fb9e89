"""One batch through the model: features, outputs and losses for the tasks that have labels in it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtlkit.errors import PluginError
from mtlkit.experiment import BoundTask, Experiment, SourceGroup
from mtlkit.task import Split
from mtlkit.tensors import Tensors, apply, told

__all__ = ["TaskBatch", "forward", "forward_all", "present", "wide"]


class TaskBatch(NamedTuple):
    """What one task made of one batch, on the rows that have a label for it.

    Attributes:
        task: The index of the task.
        features: The features of all rows in the batch, as the architecture gave them.
        output: What the head made of the labelled rows.
        target: Their targets.
        loss: The mean loss over them, a scalar.
    """

    task: int
    features: Tensors
    output: Tensor
    target: Tensor
    loss: Tensor


def forward_all(experiment: Experiment, batches: Sequence[Split | None], *, exact: bool = False) -> list[TaskBatch]:
    """Run a batch of each source through the model, and return what became of it in the order of the tasks.

    Args:
        experiment: The model and the tasks.
        batches: The training rows of each source; None for one that was not drawn.
        exact: As for :func:`forward`.

    Raises:
        PluginError: As :func:`forward`.
    """
    made = []
    for group, batch in zip(experiment.groups, batches, strict=True):
        if batch is not None:
            made += forward(experiment, group, batch, complete=group.complete, exact=exact)
    return sorted(made, key=lambda each: each.task)


def present(experiment: Experiment, batches: Sequence[Split | None]) -> list[int]:
    """Return the tasks that have labels in a batch of each source: those that :func:`forward_all` has losses of."""
    tasks: list[int] = []
    for group, batch in zip(experiment.groups, batches, strict=True):
        if batch is None:
            continue
        for index in group.tasks:
            task = experiment.tasks[index].task
            if group.complete or task.labelled(batch.targets[task.target]).any():
                tasks.append(index)
    return sorted(tasks)


def forward(
    experiment: Experiment, group: SourceGroup, batch: Split, *, complete: bool, exact: bool = False
) -> list[TaskBatch]:
    """Run one batch through the encoder once, and through the head and loss of each task that has labels in it.

    Args:
        experiment: The model and the tasks.
        group: The tasks that share the batch.
        batch: The rows.
        complete: Whether every row is known to have a label for every task, so that none need be looked for.
        exact: Whether to compute in the model's own dtype, where the run has autocast.

    Raises:
        PluginError: If the encoder, a head or a loss fails, or a loss is no scalar.
    """
    dtype = None if exact else experiment.plan.autocast
    with torch.autocast(experiment.device.type, dtype, enabled=dtype is not None):
        features = _encode(experiment, group, batch)
        made: list[TaskBatch] = []
        for index, z in zip(group.tasks, features, strict=True):
            bound = experiment.tasks[index]
            target = batch.targets[bound.task.target]
            rows = z
            if not complete:
                labelled = bound.task.labelled(target)
                if not labelled.any():
                    continue  # absent, which is not a loss of zero
                rows, target = apply(functools.partial(_chosen, labelled), z), target[labelled]
            with bound.blame("head", ("Features", rows)):
                output = experiment.model.head(bound.label)(rows)
            made.append(TaskBatch(index, z, output, target, _loss(bound, output, target)))
        return made


def wide(output: Tensor) -> Tensor:
    """Return an output in a dtype that metrics can compute in."""
    return output.float() if output.dtype in {torch.float16, torch.bfloat16} else output


def _chosen(rows: Tensor, tensor: Tensor) -> Tensor:
    return tensor[rows]


def _encode(experiment: Experiment, group: SourceGroup, batch: Split) -> list[Tensors]:
    try:
        return experiment.model.features(batch.inputs, group.tasks)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        labels = " and ".join(f"'{experiment.tasks[index].label}'" for index in group.tasks)
        raise PluginError(
            f"The encoder cannot take the rows of {labels}, of {told(batch.inputs)}: {type(error).__name__}: {error}"
        ) from error


def _loss(bound: BoundTask, output: Tensor, target: Tensor) -> Tensor:
    loss: Any
    with bound.blame("loss", ("Head output", output), ("Target", target)):
        loss = bound.task.loss(output, target)
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return loss
    received = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise PluginError(
        f"The loss of task '{bound.label}' must be a scalar, the mean over the rows; received {received} "
        f"({bound.provider})."
    )
