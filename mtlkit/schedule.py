"""Learning-rate schedules: a factor on every learning rate as a pure function of the step, so none has state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["Schedule"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rates change over a run.

    Attributes:
        shape: ``constant``, ``linear`` or ``cosine`` from 1 down to `final`; ``step``: times `gamma` at each milestone.
        warmup: The fraction of the run in which the factor first climbs linearly to 1.
        final: The factor at the end of the run, for ``linear`` and ``cosine``.
        milestones: Fractions of the run at which ``step`` drops.
        gamma: The factor of each such drop.
    """

    shape: Literal["constant", "linear", "cosine", "step"] = "constant"
    warmup: float = 0.0
    final: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    @property
    def depends_on_length(self) -> bool:
        """Whether the factor at a step is another in a run of another length."""
        return self.shape != "constant" or self.warmup > 0

    def factor(self, step: int, steps: int) -> float:
        """Return the factor for `step`, counted from 0, of a run of `steps`."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / (warm + 1)
        done = (step - warm) / max(1, steps - warm)
        if self.shape == "linear":
            return 1 + (self.final - 1) * done
        if self.shape == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        if self.shape == "step":
            return self.gamma ** sum(step >= round(milestone * steps) for milestone in self.milestones)
        return 1.0
