"""The ``stch`` strategy: a smooth maximum of the losses over their best values.

>>> STCH(2, warmup=0).weights(torch.tensor([1.0, 1.0]).double()).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting
from mtlkit.strategies.numbers import tensor_of, write
from mtlkit.strategies.softmax import softmax

__all__ = ["STCH"]


class STCH(Strategy):
    """Smooth Tchebycheff scalarisation (Lin, Zhang, Yang et al., ICML 2024).

        minimise mu log sum_i exp(lambda_i (L_i - z_i) / mu)

    with z the ideal point, which is the least loss that each task had in the warm-up, and 0 without one. Through the
    warm-up the weights are 1. Afterwards they are the effective ones, lambda_i times a softmax of what stands in the
    exponent.

    Departures from the paper: the objective is multiplied by K, so that equal tasks weigh 1 each, and lambda need not
    sum to 1. The authors' code takes logarithms of the losses, each relative to its mean in the warm-up; here they are
    the losses themselves, as in the paper's equation.

    Args:
        n_tasks: The number of tasks.
        mu: The smoothing; towards 0 the largest term alone counts.
        preference: lambda, one positive number for each task; 1 for all by default.
        warmup: How many steps the ideal point is looked for.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    preference: Tensor  # [T]
    ideal: Tensor  # [T] z; infinite until it is known
    steps: Tensor  # [T]

    def __init__(
        self,
        n_tasks: int,
        *,
        mu: Annotated[float, Field(gt=0)] = 1.0,
        preference: Sequence[Annotated[float, Field(gt=0)]] | None = None,
        warmup: Annotated[int, Field(ge=0, le=10**12)] = 100,
    ) -> None:
        super().__init__(n_tasks)
        if preference is not None and len(preference) != n_tasks:
            raise ValueError(f"preference needs one number for each of the {n_tasks} tasks; received {len(preference)}")
        self.mu, self.warmup = mu, warmup
        self.register_buffer("preference", torch.tensor(preference or [1.0] * n_tasks, dtype=torch.float64))
        self.register_buffer("ideal", torch.full((n_tasks,), math.inf if warmup else 0.0, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(n_tasks, dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        present = range(self.n_tasks) if tasks is None else tasks.tolist()
        steps, ideal, seen = self.steps.tolist(), self.ideal.tolist(), losses.tolist()
        warm = [steps[task] >= self.warmup for task in present]
        if self.training:
            for task, loss, is_warm in zip(present, seen, warm, strict=True):
                steps[task] += 1
                if not is_warm:
                    ideal[task] = min(ideal[task], loss)
            write(steps, self.steps)
            if not all(warm):
                write(ideal, self.ideal)
        if not all(warm):
            return Weighting(torch.ones_like(losses))
        every = self.preference.tolist()
        preference = [every[task] for task in present]
        rises = [loss - ideal[task] for task, loss in zip(present, seen, strict=True)]
        shares = softmax([p * rise / self.mu for p, rise in zip(preference, rises, strict=True)])
        weights = [len(seen) * p * share for p, share in zip(preference, shares, strict=True)]
        return Weighting(tensor_of(weights, losses))
