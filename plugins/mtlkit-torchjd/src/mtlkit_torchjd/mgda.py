"""MGDA: the strategy ``torchjd-mgda``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import Positive, TorchJDStrategy, aggregation

__all__ = ["MGDA"]


class MGDA(TorchJDStrategy):
    """TorchJD's MGDA: towards the shortest convex combination of the tasks' gradients.

    Sener, Koltun, NeurIPS 2018, algorithm 2. By Frank-Wolfe, which with its default limit ends above the minimum that
    mtlkit's ``mgda`` solves for. A weight may be 0, so the heads get their own gradients.

    Args:
        n_tasks: The number of tasks.
        epsilon: A step shorter than this is the last.
        max_iters: The most steps.
    """

    plain_heads = True

    def __init__(
        self, n_tasks: int, *, epsilon: Positive = 1e-3, max_iters: Annotated[int, Field(ge=1, le=10_000)] = 100
    ) -> None:
        super().__init__(n_tasks)
        self.epsilon, self.max_iters = epsilon, max_iters

    def weighting(self, present: Tensor) -> Any:
        return aggregation().MGDAWeighting(self.epsilon, self.max_iters)
