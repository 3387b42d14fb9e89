"""Probe: one batch of each source through everything before the first step, to find what does not fit."""

from __future__ import annotations

import warnings

import torch

from mtlkit.engine.forward import forward
from mtlkit.errors import PluginError
from mtlkit.experiment import Experiment

__all__ = ["PROBE_ROWS", "probe"]

PROBE_ROWS = 8


def probe(experiment: Experiment) -> None:
    """Run the first rows of each source through encoder, heads, losses and metrics; nothing is changed by it.

    Raises:
        PluginError: If a head's output does not fit its loss, a loss is no scalar or depends on nothing trainable, or
            a metric cannot be computed or has no direction.
    """
    experiment.model.eval()  # batch statistics and dropout's random numbers are for training
    with warnings.catch_warnings():
        # PyTorch only warns where it broadcasts a target against an output, and the loss is then not the one meant.
        warnings.filterwarnings("error", message="Using a target size")
        for group in experiment.groups:
            train = group.splits["train"]
            rows = train.take(torch.arange(min(PROBE_ROWS, len(train)), device=experiment.device))
            for made in forward(experiment, group, rows, complete=group.complete):
                bound = experiment.tasks[made.task]
                if not made.loss.requires_grad:
                    raise PluginError(
                        f"The loss of task '{bound.label}' depends on nothing that can be trained ({bound.provider})."
                    )
                metrics = bound.fresh_metrics(experiment.device)
                with bound.blame("metrics", ("Head output", made.output), ("Target", made.target)):
                    for metric in metrics.values():
                        metric.update(made.output.detach().float(), made.target)
                if not metrics or next(iter(metrics.values())).higher_is_better is None:
                    raise PluginError(
                        f"Task '{bound.label}' needs a first metric whose higher_is_better is True or False: it is the "
                        f"headline that tasks are compared by ({bound.provider})."
                    )
    experiment.model.train()
