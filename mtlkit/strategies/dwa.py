"""The ``dwa`` strategy: tasks whose loss falls slowly from epoch to epoch weigh more.

>>> DWA(2).weights(torch.tensor([0.7, 3.0]).double()).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting
from mtlkit.strategies.numbers import tensor_of
from mtlkit.strategies.softmax import softmax

__all__ = ["DWA"]


class DWA(Strategy):
    """Dynamic weight average (Liu, Johns, Davison, CVPR 2019, equation 7).

    With L_i(t - 1) and L_i(t - 2) the mean losses of the last epoch and of the one before it,

        w = K softmax(r / temperature),  r_i = L_i(t - 1) / L_i(t - 2)

    and w = 1 in the first two epochs. A ratio of losses that are not both positive has no meaning, and counts as 1, as
    does that of a task that has not been seen in two epochs.

    In a loop of your own, call :meth:`end_epoch` at the end of each epoch.

    Args:
        n_tasks: The number of tasks.
        temperature: The larger, the more alike the weights.
    """

    sums: Tensor  # [T] of the losses seen in this epoch
    counts: Tensor  # [T]
    last: Tensor  # [T] L(t - 1); NaN until it is known
    before: Tensor  # [T] L(t - 2)

    def __init__(self, n_tasks: int, *, temperature: Annotated[float, Field(gt=0)] = 2.0) -> None:
        super().__init__(n_tasks)
        self.temperature = temperature
        for name in ("sums", "counts"):
            self.register_buffer(name, torch.zeros(n_tasks, dtype=torch.float64))
        for name in ("last", "before"):
            self.register_buffer(name, torch.full((n_tasks,), math.nan, dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        if self.training:
            _add(self.sums, losses, tasks)
            _add(self.counts, torch.ones_like(losses), tasks)
        last, before = self.last.tolist(), self.before.tolist()
        present = range(self.n_tasks) if tasks is None else tasks.tolist()
        ratios = [last[task] / before[task] if last[task] > 0 and before[task] > 0 else 1.0 for task in present]
        shares = softmax([ratio / self.temperature for ratio in ratios])
        return Weighting(tensor_of([len(shares) * share for share in shares], losses))

    def end_epoch(self) -> None:
        seen = self.counts > 0
        mean = self.sums / self.counts.clamp(min=1)
        self.before = torch.where(seen, self.last, self.before)
        self.last = torch.where(seen, mean, self.last)
        self.sums.zero_()
        self.counts.zero_()


def _add(buffer: Tensor, values: Tensor, tasks: Tensor | None) -> None:
    """Add to the numbers of the tasks present, in place."""
    if tasks is None:
        buffer.add_(values)
    else:
        buffer.index_add_(0, tasks, values)
