"""ConFIG: the strategy ``torchjd-config``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

import mtlkit
from mtlkit_torchjd.base import aggregation, of_present, per_task, present_in

__all__ = ["ConFIG"]


class ConFIG(mtlkit.Strategy):
    """TorchJD's ConFIG: the direction with one angle to every gradient.

    Liu, Chu, Thuerey, ICLR 2025, equation 2. TorchJD works it out from the gradients themselves. The heads get their
    own gradients.

    Args:
        n_tasks: The number of tasks.
        pref_vector: What the direction's cosines with the tasks' gradients are proportional to, one number for each
            task; equal by default.
    """

    needs: ClassVar[mtlkit.Needs] = mtlkit.Needs.JACOBIAN
    over: ClassVar[mtlkit.Over | None] = mtlkit.Over.PARAMETERS

    def __init__(self, n_tasks: int, *, pref_vector: Sequence[float] | None = None) -> None:
        super().__init__(n_tasks)
        self.pref_vector = per_task("pref_vector", pref_vector, n_tasks)

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> mtlkit.Weighting:
        preferred = of_present(self.pref_vector, present_in(tasks, self.n_tasks))
        preferred = None if preferred is None else preferred.to(jacobian)
        direction = aggregation().ConFIG(preferred)(jacobian)
        return mtlkit.Weighting(torch.ones_like(losses), direction=direction)
