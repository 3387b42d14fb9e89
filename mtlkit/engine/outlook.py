"""The outlook of a pass: a held-out batch of every source, and what a trial step makes of its losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mtlkit.engine.forward import forward_all, present
from mtlkit.experiment import Experiment
from mtlkit.gradients import Outlook, look_ahead
from mtlkit.task import Split

__all__ = ["outlook"]


def outlook(experiment: Experiment, batches: Sequence[Split | None]) -> Outlook | None:
    """Draw held-out rows, and look ahead from the batches of a pass.

    None where the strategy does not ask, or no task has a label in the batches. Held-out rows are drawn of every
    source, also where the pass draws one: what a step along it makes of the others is what is to be seen. On both sides
    a loss counts times the constant weight of its task.

    Raises:
        PluginError: If the encoder, a head or a loss fails.
    """
    if not experiment.strategy.looks_ahead:
        return None
    held_out = [group.held_out.next() for group in experiment.groups if group.held_out is not None]
    tasks, held_out_tasks = present(experiment, batches), present(experiment, held_out)
    if not tasks:
        return None
    return look_ahead(
        experiment.strategy,
        training=lambda: _losses(experiment, batches),
        held_out=lambda: _losses(experiment, held_out),
        model=experiment.model,
        optimizer=experiment.optimizer,
        tasks=None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks),
        held_out_tasks=None if len(held_out_tasks) == len(experiment.tasks) else torch.tensor(held_out_tasks),
    )


def _losses(experiment: Experiment, batches: Sequence[Split | None]) -> Tensor:
    made = forward_all(experiment, batches, exact=True)
    weights = [experiment.tasks[task].weight for task in made.tasks]
    return made.losses * made.losses.new_tensor(weights)
