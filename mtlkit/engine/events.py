"""What happens in a run, as values; a listener is any function that takes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

__all__ = [
    "CheckpointWritten",
    "EpochFinished",
    "EvaluationFinished",
    "Event",
    "GradientsMeasured",
    "Listener",
    "NonFinite",
    "NonFiniteFound",
    "RunFinished",
    "RunStarted",
    "StepFinished",
    "StepRecorded",
    "TaskResult",
]


@dataclass(frozen=True)
class TaskResult:
    """How one task fares on one split.

    Attributes:
        loss: The mean loss over the rows with a label.
        metrics: The metrics by name; the first is the headline.
        rows: How many rows had a label.
    """

    loss: float
    metrics: Mapping[str, float]
    rows: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read back what a run wrote, where NaN became null."""
        metrics = {name: math.nan if value is None else value for name, value in data["metrics"].items()}
        return cls(math.nan if data["loss"] is None else data["loss"], metrics, data["rows"])


@dataclass(frozen=True)
class RunStarted:
    """A run starts, or goes on from the step it was saved at."""

    folder: Path
    labels: Sequence[str]
    step: int
    steps: int
    steps_per_epoch: int


@dataclass(frozen=True)
class StepFinished:
    """A step was taken. It holds nothing that would have to be fetched from a GPU."""

    step: int


@dataclass(frozen=True)
class StepRecorded:
    """What went to metrics.jsonl for one step, by task label; a task that was absent is left out.

    Attributes:
        step: The step.
        learning_rate: Of the model, in this step.
        losses: The losses before weighting.
        weights: The weights that were applied.
        weighted_losses: Their products.
        gradient_norms: The norms of the unweighted gradients; empty where the strategy does not measure them.
        rows: How many rows with a label each task saw in this step; 0 for one that was absent.
        total_rows: How many since the run began.
        skipped: How many steps were skipped since then: no weight moved, for a gradient that overflowed in float16, or
            for values that were NaN or infinite.
        non_finite_steps: In how many steps since then a value was NaN or infinite, whether they were skipped or taken
            without the task.
        non_finite: In how many steps since then each task had such a value.
    """

    step: int
    learning_rate: float
    losses: Mapping[str, float]
    weights: Mapping[str, float]
    weighted_losses: Mapping[str, float]
    gradient_norms: Mapping[str, float]
    rows: Mapping[str, int]
    total_rows: Mapping[str, int]
    skipped: int = 0
    non_finite_steps: int = 0
    non_finite: Mapping[str, int] = field(default_factory=dict)


Action = Literal["stop", "skip-task", "skip-step", "go-on"]


@dataclass(frozen=True)
class NonFinite:
    """A value that was NaN or infinite.

    Attributes:
        what: Which: ``loss``, ``gradient``, ``weight``, ``held-out loss``, ``slope`` (of a trial step), ``penalty`` (of
            the architecture), ``loss after the step``, or ``weights`` (of the model).
        task: The label of the task whose it is; None where it is no single task's.
        number: Which pass of the step it was in, from 0; None where it is of all together.
        value: What it was: ``nan``, ``inf`` or ``-inf``; empty where it is many values, or unknown.
        cause: Where in the computation the first such values are: in the ``inputs``, the ``features``, the ``output``
            of the head, the ``target``, or the ``loss`` itself; empty where that is not known.
        rows: In which rows of the batch, the first hundred; empty where that is not known, or it is in every row.
        split_rows: Which rows of the training split these are; None where that is not known.
    """

    what: str
    task: str | None = None
    number: int | None = None
    value: str = ""
    cause: str = ""
    rows: Sequence[int] = ()
    split_rows: Sequence[int] | None = None

    def __str__(self) -> str:
        """Tell of it, as a sentence goes on from "Non-finite"."""
        told = self.what
        if self.task is not None:
            told += f" of '{self.task}'"
        if self.value:
            told += f" ({self.value})"
        if self.rows:
            told += f" in {_numbered(self.rows)} of the batch"
        if self.split_rows:
            told += f" ({_numbered(self.split_rows)} of the training split)"
        return told + _CAUSES.get(self.cause, "")


_CAUSES = {
    "inputs": ", from the inputs on",
    "features": ", from the features on",
    "output": ", from the output of the head on",
    "target": ", from the target on",
}


def _numbered(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:5]))
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', ...' if len(rows) > 5 else ''}"  # noqa: PLR2004


@dataclass(frozen=True)
class NonFiniteFound:
    """Values that were NaN or infinite were found in a step, before they came to any weight.

    Attributes:
        step: The step, from 1.
        action: What was done: the run was stopped (``stop``), the tasks were left out of the step (``skip-task``), the
            step was left out (``skip-step``), or, of a loss after the step, the strategy was not told of it
            (``go-on``).
        found: The values.
    """

    step: int
    action: Action
    found: Sequence[NonFinite]


@dataclass(frozen=True)
class GradientsMeasured:
    """How the tasks' unweighted gradients compared in one step, by task label; a task that was absent is left out.

    Attributes:
        step: The step.
        over: Where: ``last-shared``, ``features`` or ``parameters``.
        norms: The norm of each.
        cosines: The cosine between each two, by the one that stands first among the tasks, then the other.
        conflicts: The fraction of pairs whose cosine is below 0; None with fewer than two tasks.
    """

    step: int
    over: str
    norms: Mapping[str, float]
    cosines: Mapping[str, Mapping[str, float]]
    conflicts: float | None


@dataclass(frozen=True)
class EpochFinished:
    """The last step of an epoch was taken; epochs count from 1."""

    step: int
    epoch: int


@dataclass(frozen=True)
class EvaluationFinished:
    """All tasks were evaluated on one split. Weights that are the best so far are saved after this is told."""

    step: int
    epoch: float
    split: str
    results: Mapping[str, TaskResult]
    is_best: bool


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint is whole and in its place, maybe some steps after the one that it was taken at."""

    step: int
    folder: Path


@dataclass(frozen=True)
class RunFinished:
    """The run is over; the results are those of the best weights on the test split."""

    folder: Path
    best_step: int
    results: Mapping[str, TaskResult]


Event = (
    RunStarted
    | StepFinished
    | StepRecorded
    | NonFiniteFound
    | GradientsMeasured
    | EpochFinished
    | EvaluationFinished
    | CheckpointWritten
    | RunFinished
)
Listener = Callable[[Event], None]
