"""The ``fixed`` strategy: constant weights, sum_t alpha_t L_t.

>>> Fixed(2, alpha=[1.0, 0.5]).weights(torch.tensor([0.7, 3.0]).double()).weights.tolist()
[1.0, 0.5]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting

__all__ = ["Fixed"]

Alpha = Annotated[float, Field(gt=0)]


class Fixed(Strategy):
    """Constant weights: minimise sum_t alpha_t L_t.

    In a run configuration a task's ``weight`` is the plainer place to set its alpha.

    Args:
        n_tasks: The number of tasks.
        alpha: One positive weight for each task; 1 for all by default.

    Raises:
        ValueError: If there is not one weight for each task.
    """

    alpha: Tensor

    def __init__(self, n_tasks: int, *, alpha: Sequence[Alpha] | None = None) -> None:
        super().__init__(n_tasks)
        if alpha is not None and len(alpha) != n_tasks:
            raise ValueError(f"alpha needs one weight for each of the {n_tasks} tasks; received {len(alpha)}")
        self.register_buffer("alpha", torch.tensor(alpha or [1.0] * n_tasks, dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        return Weighting(self.alpha.clone() if tasks is None else self.alpha[tasks])
