"""Did sharing help: each task trained together with the others against the same task trained alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

from mtlkit.report.statistics import interval

__all__ = ["Comparison", "Estimate", "Headline", "TaskComparison", "compare"]

Verdict = Literal["helped", "hurt", "no difference seen"]


@dataclass(frozen=True)
class Headline:
    """A task's headline metric.

    Attributes:
        metric: Its name.
        higher_is_better: Its direction.
    """

    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        values: One value for each seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return _mean(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean by Student's t; None for a single seed."""
        return interval(self.values)

    @property
    def verdict(self) -> Verdict:
        """What a gain says: for several seeds by its interval, for one by its sign alone."""
        low, high = self.interval or ((self.mean, self.mean) if len(self.values) == 1 else (-math.inf, math.inf))
        if low > 0:
            return "helped"
        return "hurt" if high < 0 else "no difference seen"

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {"mean": self.mean, "interval": self.interval, "values": list(self.values)}


@dataclass(frozen=True)
class TaskComparison:
    """One task, alone and together.

    Attributes:
        headline: What is compared.
        alone: The metric of the single-task baseline, by seed.
        together: The metric of the multi-task run, by seed.
        difference: together - alone, by seed.
        gain: The relative gain in per cent, positive where together is better, by seed.
    """

    headline: Headline
    alone: Estimate
    together: Estimate
    difference: Estimate
    gain: Estimate

    @property
    def verdict(self) -> Verdict:
        """What the difference says, in the metric's direction; it is there even where the relative gain is not."""
        sign = 1 if self.headline.higher_is_better else -1
        return Estimate(tuple(sign * value for value in self.difference.values)).verdict


@dataclass(frozen=True)
class Comparison:
    """All tasks, alone and together.

    Attributes:
        seeds: The seeds.
        tasks: The tasks by label.
        delta_m: The mean of the tasks' relative gains in per cent, by seed (Maninis et al., CVPR 2019, equation 3).
    """

    seeds: tuple[int, ...]
    tasks: Mapping[str, TaskComparison]
    delta_m: Estimate

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        tasks = {
            label: asdict(task.headline)
            | {name: getattr(task, name).to_dict() for name in ("alone", "together", "difference", "gain")}
            | {"verdict": task.verdict}
            for label, task in self.tasks.items()
        }
        return {
            "seeds": list(self.seeds),
            "tasks": tasks,
            "delta_m": self.delta_m.to_dict(),
            "verdict": self.delta_m.verdict,
        }


def _mean(values: Sequence[float]) -> float:
    """Return the mean; NaN where a value is not finite, for a run that diverged has no share in one."""
    return fmean(values) if all(map(math.isfinite, values)) else math.nan


def compare(
    seeds: Sequence[int],
    headlines: Mapping[str, Headline],
    alone: Mapping[str, Sequence[float]],
    together: Mapping[str, Sequence[float]],
) -> Comparison:
    """Compare each task's headline metric, seed by seed.

    Args:
        seeds: The seeds.
        headlines: Each task's headline metric.
        alone: Its value when the task is trained alone, one for each seed.
        together: Its value when all tasks are trained together, one for each seed.
    """
    tasks = {}
    for label, headline in headlines.items():
        sign = 1 if headline.higher_is_better else -1
        pairs = list(zip(alone[label], together[label], strict=True))
        tasks[label] = TaskComparison(
            headline=headline,
            alone=Estimate(tuple(alone[label])),
            together=Estimate(tuple(together[label])),
            difference=Estimate(tuple(b - a for a, b in pairs)),
            gain=Estimate(tuple(100 * sign * (b - a) / abs(a) if a else math.nan for a, b in pairs)),
        )
    gains = zip(*(task.gain.values for task in tasks.values()), strict=True)
    return Comparison(tuple(seeds), tasks, Estimate(tuple(_mean(each) for each in gains)))
