"""Trimmed mean: the strategy ``torchjd-trimmed-mean``."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

import mtlkit
from mtlkit_torchjd.base import aggregation

__all__ = ["TrimmedMean"]


class TrimmedMean(mtlkit.Strategy):
    """TorchJD's TrimmedMean: entry by entry, the mean of the gradients without the most extreme.

    Yin, Chen, Ramchandran, Bartlett, ICML 2018. The heads get their own gradients.

    Departure from TorchJD, which raises: with fewer tasks present than 2 trim_number + 1, as in the baseline of a
    single task, as many are trimmed as leave at least one.

    Args:
        n_tasks: The number of tasks.
        trim_number: How many of the largest, and of the smallest, are left out at each entry.
    """

    needs: ClassVar[mtlkit.Needs] = mtlkit.Needs.JACOBIAN
    over: ClassVar[mtlkit.Over | None] = mtlkit.Over.PARAMETERS

    def __init__(self, n_tasks: int, *, trim_number: Annotated[int, Field(ge=0)] = 1) -> None:
        super().__init__(n_tasks)
        self.trim_number = trim_number

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> mtlkit.Weighting:
        trimmed = min(self.trim_number, (len(jacobian) - 1) // 2)
        with torch.no_grad():
            direction = aggregation().TrimmedMean(trimmed)(jacobian)
        return mtlkit.Weighting(torch.ones_like(losses), direction=direction)
