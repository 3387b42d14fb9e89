"""Probe: one batch of each source through everything before the first step, to find what does not fit."""

from __future__ import annotations

import warnings

import torch

from mtlkit.data.reader import some_rows
from mtlkit.engine.forward import forward, wide
from mtlkit.errors import PluginError
from mtlkit.experiment import Experiment, SourceGroup
from mtlkit.task import Split

__all__ = ["PROBE_ROWS", "probe"]

PROBE_ROWS = 8
READ_ROWS = 64  # where rows are not in memory: a task that has no label among them is not probed


def probe(experiment: Experiment) -> None:
    """Run some rows of each source through encoder, heads, losses and metrics; nothing is changed by it.

    They are the first rows that have a label for each task, so that every task is seen; where rows are not in memory,
    among the first that there are.

    Raises:
        PluginError: If a head's output does not fit its loss, a loss is no scalar or depends on nothing trainable, or
            a metric cannot be computed or has no direction.
    """
    for bound in experiment.tasks:
        metrics = bound.fresh_metrics(experiment.device)
        if not metrics or next(iter(metrics.values())).higher_is_better is None:
            raise PluginError(
                f"Task '{bound.label}' needs a first metric whose higher_is_better is True or False: it is the "
                f"headline that tasks are compared by ({bound.provider})."
            )
    experiment.model.eval()  # batch statistics and dropout's random numbers are for training
    with warnings.catch_warnings():
        # PyTorch only warns where it broadcasts a target against an output, and the loss is then not the one meant.
        warnings.filterwarnings("error", message="Using a target size")
        # A metric may find so few rows too few, and say so.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchmetrics")
        for group in experiment.groups:
            for made in forward(experiment, group, _some_rows(experiment, group), complete=group.complete):
                bound = experiment.tasks[made.task]
                if not made.loss.requires_grad:
                    raise PluginError(
                        f"The loss of task '{bound.label}' depends on nothing that can be trained ({bound.provider})."
                    )
                for name, metric in bound.fresh_metrics(experiment.device).items():
                    with bound.blame(f"metric '{name}'", ("Head output", made.output), ("Target", made.target)):
                        metric.update(wide(made.output.detach()), made.target)
                        float(metric.compute())
    experiment.model.train()


def _some_rows(experiment: Experiment, group: SourceGroup) -> Split:
    train = some_rows(group.splits["train"], READ_ROWS)
    chosen = torch.zeros(len(train), dtype=torch.bool, device=experiment.device)
    for index in group.tasks:
        bound = experiment.tasks[index]
        with bound.blame("labelled()"):
            labelled = bound.task.labelled(train.targets[bound.task.target])
        chosen[labelled.nonzero().flatten()[:PROBE_ROWS]] = True
    return train.take(chosen.nonzero().flatten())
