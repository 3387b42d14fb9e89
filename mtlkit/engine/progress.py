"""Progress: how far a run has come, and what it takes to go on from there bit for bit."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, TypeAdapter

from mtlkit.data.generators import generator_states, restore_generators, seed_generators
from mtlkit.engine import checkpoint
from mtlkit.engine.events import TaskResult
from mtlkit.engine.optimizer_state import restore_optimizer
from mtlkit.engine.run import RunFolder
from mtlkit.engine.tally import Tally
from mtlkit.errors import CheckpointError, MtlkitError
from mtlkit.experiment import Experiment

__all__ = ["Progress"]


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: Steps taken.
        best_step: The step of the best weights so far.
        best_score: Their score; lower is better.
        first_losses: Each task's loss at the first evaluation, which later ones are relative to.
        rows: How many rows with a label each task saw.
        skipped: Steps that were skipped, for a gradient that overflowed in float16, or for values that were NaN or
            infinite.
        evaluation_is_due: Whether the last step is still to be evaluated, since a signal came before that was done.
        tally: How often values were NaN or infinite.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, revalidate_instances="always")

    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    first_losses: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    evaluation_is_due: bool = False
    tally: Tally = field(default_factory=Tally)

    @classmethod
    def restore(cls, experiment: Experiment, run: RunFolder) -> Progress:
        """Go back to the newest whole checkpoint, everything random included; to the beginning where there is none.

        Raises:
            CheckpointError: If there are checkpoints, and none can be used.
        """
        folder, damaged = run.saves.latest()
        for error in damaged:
            warnings.warn(f"{error} Going on from {folder}, which is older.", stacklevel=2)
        if folder is None:
            run.records.truncate({}, step=0)
            seed_generators(experiment.plan.seed)
            torch.manual_seed(experiment.plan.seed)  # on every device
            return cls()
        checkpoint.load_weights(folder, experiment.model)
        state = checkpoint.load_state(folder)
        try:
            progress = _checked(state["progress"], experiment)
            restore_optimizer(experiment.optimizer, state["optimizer"])
            experiment.scaler.load_state_dict(state["scaler"])
            experiment.strategy.load_state_dict(state["strategy"])
            for stream, saved in zip(experiment.streams, state["streams"], strict=True):
                stream.restore(saved)
            restore_generators(state["random"], experiment.device)
            run.records.truncate(state["records"], step=progress.step)
        except MtlkitError:
            raise
        except Exception as error:  # a stranger's state can be wrong in any way, and each part of a run reads its own
            raise CheckpointError(f"The state in {folder} is not this run's: {error}.") from error
        return progress

    def state(self, experiment: Experiment, run: RunFolder) -> dict[str, Any]:
        """Return everything that a checkpoint holds beside the model's weights."""
        return {
            "progress": asdict(self),
            "optimizer": experiment.optimizer.state_dict(),
            "scaler": experiment.scaler.state_dict(),
            "strategy": experiment.strategy.state_dict(),
            "streams": [stream.state() for stream in experiment.streams],
            "random": generator_states(experiment.device),
            "records": run.records.sizes(),
        }

    def is_best(self, experiment: Experiment, results: Mapping[str, TaskResult]) -> bool:
        """Return whether these validation results are the best so far, and remember it if they are."""
        if not self.first_losses:
            self.first_losses = {label: result.loss for label, result in results.items()}
        score = self._score(experiment, results)
        if self.best_score is not None and not score < self.best_score:
            return False
        # A score that is not a number must not stay the one to beat.
        self.best_score = None if math.isnan(score) else score
        self.best_step = self.step
        return True

    def _score(self, experiment: Experiment, results: Mapping[str, TaskResult]) -> float:
        rule = experiment.plan.best
        if rule == "last":
            return -self.step
        if rule == "loss":
            relative = [
                bound.weight * results[bound.label].loss / max(abs(self.first_losses[bound.label]), sys.float_info.min)
                for bound in experiment.tasks
                if results[bound.label].rows  # a task without validation rows leaves the choice to the others
            ]
            return sum(relative) / len(relative) if relative else -self.step
        label, _, metric = rule.partition("/")
        bound = experiment.tasks[experiment.labels.index(label)]
        sign = -1 if bound.task.metrics()[metric].higher_is_better else 1
        return sign * results[label].metrics[metric]


def _checked(saved: Mapping[str, Any], experiment: Experiment) -> Progress:
    """Return a progress that a checkpoint, which may be a stranger's, holds.

    Raises:
        TypeError, ValueError: If it is none, or not one of this run.
    """
    given = dict(saved)
    tally = Tally(**given.pop("tally", {}))  # of which a checkpoint of an earlier version has none
    progress = Progress(**given, tally=tally)
    TypeAdapter(Progress).validate_python(progress)
    if not 0 <= progress.best_step <= progress.step <= experiment.plan.steps:
        raise ValueError(f"it is at step {progress.step}, and the best was {progress.best_step}")
    for each in (progress.first_losses, progress.rows):
        if each and each.keys() != set(experiment.labels):
            raise ValueError(f"its tasks are {', '.join(each):.200}")
    for counts in (tally.tasks, tally.in_a_row):
        if not counts.keys() <= set(experiment.labels):
            raise ValueError(f"its tasks are {', '.join(counts):.200}")
    return progress
