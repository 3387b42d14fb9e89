"""The ``rlw`` strategy: weights drawn anew at each step.

>>> RLW(3, seed=0).weights(torch.ones(3).double()).weights.sum().item()
3.0
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Strategy, Weighting
from mtlkit.strategies.draws import Draws

__all__ = ["RLW"]


class RLW(Strategy):
    """Random loss weighting (Lin, Ye, Zhang, Tsang, TMLR 2022), from the normal distribution.

        w = K softmax(x),  x_i ~ N(0, 1), at each step

    Departure from the paper, whose weights sum to 1: they sum to K, so that the scale is that of equal weights of 1.
    With tasks absent, the numbers drawn for them are left out.

    Args:
        n_tasks: The number of tasks.
        seed: Seeds the numbers; None takes the seed that torch was seeded with, in a run the run's own.
    """

    def __init__(self, n_tasks: int, *, seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None) -> None:
        super().__init__(n_tasks)
        self.draws = Draws(seed)

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        generator = self.draws.next(advance=self.training)
        drawn = torch.randn(self.n_tasks, generator=generator, dtype=torch.float64).to(losses.device)
        chosen = drawn if tasks is None else drawn[tasks]  # [K]
        return Weighting(len(chosen) * torch.softmax(chosen, 0))
