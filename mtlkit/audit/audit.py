"""audit(): every check over an experiment, and what the run will need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mtlkit.audit import inputs, rows, steps, targets  # noqa: F401 - each adds its checks to the list
from mtlkit.audit.checks import CHECKS, Check
from mtlkit.audit.examined import Examined
from mtlkit.audit.trial import Cost
from mtlkit.engine.probe import probe
from mtlkit.experiment import Experiment
from mtlkit.findings import Finding, Level

__all__ = ["Audit", "audit"]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        findings: What each check that was made found, nothing where all is well.
        tasks: Of each task, how many rows of each split have a label, and how many of each class there are in training.
        cost: What the run will need; None where the rows have errors, so that no step was taken.
    """

    findings: Sequence[tuple[Check, Sequence[Finding]]]
    tasks: Sequence[dict[str, Any]]
    cost: Cost | None

    @property
    def has_errors(self) -> bool:
        """Whether something should be mended before training."""
        return _have_errors(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``--json`` prints."""
        return {
            "checks": [
                {
                    "check": each.name,
                    "level": str(min((f.level for f in found), key=list(Level).index)) if found else "ok",
                    "findings": [finding.to_dict() for finding in found],
                }
                for each, found in self.findings
            ],
            "labels": list(self.tasks),
            "cost": None if self.cost is None else {**vars(self.cost), "bytes": self.cost.bytes},
        }


def audit(experiment: Experiment, batch_sizes: Sequence[int]) -> Audit:
    """Look at the rows of an experiment, and take a few steps; nothing else is to use it afterwards.

    Args:
        experiment: Everything that the run is made of.
        batch_sizes: How many rows a batch of each source is to have, where there are as many.

    Raises:
        PluginError: If a task's own code fails, or what it makes does not fit.
    """
    examined = Examined(experiment, batch_sizes)
    findings = [(check, list(check.find(examined))) for check in CHECKS if not check.of_steps]
    tasks = [_labels(examined, index) for index in range(len(examined.labels))]
    if _have_errors(findings):  # which a step would only fail of
        return Audit(findings, tasks, None)
    probe(experiment)
    findings += [(check, list(check.find(examined))) for check in CHECKS if check.of_steps]
    return Audit(findings, tasks, examined.trial.cost)


def _have_errors(findings: Sequence[tuple[Check, Sequence[Finding]]]) -> bool:
    return any(finding.level is Level.ERROR for _, found in findings for finding in found)


def _labels(examined: Examined, index: int) -> dict[str, Any]:
    labels = examined.labels[index]
    told: dict[str, Any] = {"task": labels.bound.label}
    told |= {split: int(labelled.sum()) for split, labelled in labels.labelled.items()}
    n_classes = labels.bound.task.n_classes
    if n_classes is None:
        known = labels.columns["train"][labels.labelled["train"]].double().nan_to_num(0, 0, 0)
        return told | {"mean": float(known.mean()), "deviation": float(known.std(correction=0))}
    classes = labels.classes("train")
    inside = classes[(classes >= 0) & (classes < n_classes)]
    return told | {"classes": torch.bincount(inside, minlength=n_classes).tolist()}
