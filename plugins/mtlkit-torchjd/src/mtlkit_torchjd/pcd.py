"""PCD: the strategy ``torchjd-pcd``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import NotNegative, TorchJDStrategy, aggregation, per_task

__all__ = ["PCD"]

Fraction = Annotated[float, Field(ge=0, le=1)]


class PCD(TorchJDStrategy):
    """TorchJD's PCD: the first task's gradient, as far as every other task still gains.

    Priority-constrained descent (arXiv:2606.29521, TMLR 2026): with every gradient in units of the norm that it usually
    has, the direction nearest to the first task's gradient that gives each other task the fraction tau of what its own
    gradient would give it. The order of the tasks matters: the first is the primary one. Where it is absent, the first
    of those present is. A weight may be 0, so the heads get their own gradients.

    Args:
        n_tasks: The number of tasks.
        tau: The fraction, one for all or one for each task but the first.
        beta: How much of the average of a gradient's squared norm stays at each step.
        eps: What is added to the average.

    Raises:
        ValueError: If there is not one tau for each task but the first.
    """

    plain_heads = True

    usual: Tensor  # [T] the average of each gradient's squared norm, without bias; NaN until one is seen
    steps: Tensor  # []

    def __init__(
        self,
        n_tasks: int,
        *,
        tau: Fraction | Sequence[Fraction] = 0.02,
        beta: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        eps: NotNegative = 1e-8,
    ) -> None:
        super().__init__(n_tasks)
        each = [0.0, *([tau] * (n_tasks - 1) if isinstance(tau, float | int) else tau)]
        if len(each) != n_tasks:
            raise ValueError(f"tau needs one number for each of the {n_tasks - 1} tasks but the first; received {tau}")
        self.tau = per_task("tau", each, n_tasks)
        self.beta, self.eps = beta, eps
        self.register_buffer("usual", torch.full((n_tasks,), math.nan, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        weighting = self.weighting(present)
        # TorchJD has the average begin at 0, and corrects for that by the number of steps, one number for all tasks.
        # Here a task may have been absent: its average has stood still, and goes to TorchJD with the bias put back.
        steps = int(self.steps)
        usual = self.usual.cpu()
        held = torch.where(usual[present].isnan(), gramian.diagonal(), usual[present])
        weighting._sq_norm_ema = held * (1 - self.beta**steps)
        weighting._n_steps = torch.tensor(steps)
        weighting._state_key = len(present)
        weights: Tensor = weighting(gramian)
        if self.training:
            usual[present] = weighting._sq_norm_ema / (1 - self.beta ** (steps + 1))
            self.usual.copy_(usual)
            self.steps += 1
        return weights

    def weighting(self, present: Tensor) -> Any:
        return aggregation().PCDWeighting(self.tau[present[1:]], self.beta, self.eps)
