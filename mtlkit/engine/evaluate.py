"""Evaluate every task on a split."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from mtlkit.data.reader import batches
from mtlkit.engine.events import TaskResult
from mtlkit.engine.forward import forward, wide
from mtlkit.experiment import Experiment, SourceGroup
from mtlkit.memory import asked_for_by

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(experiment: Experiment, split: str, *, go_on: Callable[[], None] = lambda: None) -> dict[str, TaskResult]:
    """Return every task's loss and metrics on one split, in the order of the tasks.

    Args:
        experiment: The model and the data.
        split: ``train``, ``validation`` or ``test``.
        go_on: Is called before each batch, and may raise to break off.

    Raises:
        PluginError: If a task's own code fails.
        DataError: If rows cannot be read.
    """
    training = experiment.model.training
    experiment.model.eval()
    try:
        results: dict[int, TaskResult] = {}
        with asked_for_by("evaluation.batch_size"):
            for group in experiment.groups:
                results |= _evaluate_group(experiment, group, split, go_on)
    finally:
        experiment.model.train(training)
    return {bound.label: results[index] for index, bound in enumerate(experiment.tasks)}


def _evaluate_group(
    experiment: Experiment, group: SourceGroup, split: str, go_on: Callable[[], None]
) -> dict[int, TaskResult]:
    rows = group.splits[split]
    metrics = {index: experiment.tasks[index].fresh_metrics(experiment.device) for index in group.tasks}
    sums = dict.fromkeys(group.tasks, 0.0)
    counts = dict.fromkeys(group.tasks, 0)
    for batch in batches(rows, experiment.plan.evaluation_batch_size):
        go_on()
        for made in forward(experiment, group, batch, complete=False):
            bound = experiment.tasks[made.task]
            count = len(made.target)
            sums[made.task] += made.loss.item() * count
            counts[made.task] += count
            for name, metric in metrics[made.task].items():
                with bound.blame(f"metric '{name}'", ("Head output", made.output), ("Target", made.target)):
                    metric.update(wide(made.output), made.target)
    results = {}
    for index in group.tasks:
        values = {}
        for name, metric in metrics[index].items():
            with experiment.tasks[index].blame(f"metric '{name}'"):
                values[name] = float(metric.compute()) if counts[index] else math.nan
        loss = sums[index] / counts[index] if counts[index] else math.nan
        results[index] = TaskResult(loss, values, counts[index])
    return results
