"""The outlook of a pass: a held-out batch of every source, and what a trial step makes of its losses."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor

from mtlkit.engine.forward import forward_all, present
from mtlkit.experiment import Experiment
from mtlkit.gradients import Outlook, look_ahead
from mtlkit.task import Split

__all__ = ["draw_held_out", "outlook"]


def draw_held_out(experiment: Experiment) -> list[Split]:
    """Draw held-out rows of every source; none where the strategy does not look ahead."""
    return [group.held_out.next() for group in experiment.groups if group.held_out is not None]


def outlook(
    experiment: Experiment,
    batches: Sequence[Split | None],
    held_out: Sequence[Split],
    *,
    without: AbstractSet[int] = frozenset(),
    without_held_out: AbstractSet[int] = frozenset(),
) -> Outlook | None:
    """Look ahead from the batches of a pass.

    None where the strategy does not ask, or no task has a label in the batches. On both sides a loss counts times the
    constant weight of its task.

    Args:
        experiment: What is trained.
        batches: The batch of each source; None for one that was not drawn.
        held_out: Held-out rows of every source, also where the pass draws one: what a step along it makes of the others
            is what is to be seen.
        without: The indices of tasks that are left out of the batches.
        without_held_out: Those that are left out of the held-out rows.

    Raises:
        PluginError: If the encoder, a head or a loss fails.
        NonFiniteError: If a loss or a gradient is NaN or infinite.
    """
    if not experiment.strategy.looks_ahead:
        return None
    tasks = present(experiment, batches, without=without)
    held_out_tasks = present(experiment, held_out, without=without_held_out)
    if not tasks:
        return None
    index = None if len(tasks) == len(experiment.tasks) else torch.tensor(tasks)
    if not held_out_tasks:  # no held-out row has a label: there is nothing to ask about
        return Outlook(torch.zeros(0, len(tasks), dtype=torch.float64), index)
    return look_ahead(
        experiment.strategy,
        training=lambda: _losses(experiment, batches, without),
        held_out=lambda: _losses(experiment, held_out, without_held_out),
        model=experiment.model,
        optimizer=experiment.optimizer,
        tasks=index,
        held_out_tasks=None if len(held_out_tasks) == len(experiment.tasks) else torch.tensor(held_out_tasks),
    )


def _losses(experiment: Experiment, batches: Sequence[Split | None], without: AbstractSet[int]) -> Tensor:
    made = forward_all(experiment, batches, exact=True, without=without)
    weights = [experiment.tasks[task].weight for task in made.tasks]
    return made.losses * made.losses.new_tensor(weights)
