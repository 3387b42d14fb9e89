"""The ``cagrad`` strategy: near the mean gradient, the direction that serves the worst-off task best.

>>> import torch
>>> CAGrad(2, c=0.0).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from mtlkit.solvers import cagrad_weights
from mtlkit.solvers.few import Rows, cagrad_of_few, dot
from mtlkit.strategies.base import GramianStrategy, Needs, Over

__all__ = ["CAGrad"]

# What ||g_w|| counts as at least, of the longest gradient. Products of gradients in float32 are right to some 1e-7 of
# their norms, so a combination shorter than the root of that has a length, and weights, that are made of rounding.
_SHORTEST = 1e-3


class CAGrad(GramianStrategy):
    """Conflict-averse gradient descent (Liu, Liu, Jin, Stone, Liu, NeurIPS 2021, algorithm 1).

    With g_0 the mean gradient and g_w = sum_i w_i g_i,

        w = argmin over the simplex of g_w . g_0 + c ||g_0|| ||g_w||,  d = g_0 + c ||g_0|| g_w / ||g_w||

    which maximises the least improvement of any task within c ||g_0|| of g_0. With c = 0 it is the mean gradient.

    Departure from the paper: where g_w is next to nothing, shorter than 0.001 of the longest gradient, it counts as
    that long.

    Args:
        n_tasks: The number of tasks.
        c: How far from the mean gradient the direction may be, in its length.
        rescale: Whether d is divided by 1 + c^2.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(self, n_tasks: int, *, c: Annotated[float, Field(ge=0)] = 0.5, rescale: bool = False) -> None:
        super().__init__(n_tasks)
        self.c, self.rescale = c, rescale

    def solve(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return self.solved(self._combination, gramian, few=self._combination_of_few)

    def _combination(self, gramian: np.ndarray) -> np.ndarray:
        """Return d in terms of the gradients ``[K]``."""
        mean = np.full(len(gramian), 1 / len(gramian))
        w = cagrad_weights(gramian, self.c) if self.c > 0 else mean
        share = self._share(w @ gramian @ w, mean @ gramian @ mean, gramian.diagonal().max())
        return np.asarray((mean + share * w) / self._divisor)

    def _combination_of_few(self, gramian: Rows) -> list[float] | None:
        """Return it in plain numbers."""
        w = cagrad_of_few(gramian, self.c)
        if w is None:
            return None
        size, divisor = len(w), self._divisor
        square = dot(w, [dot(row, w) for row in gramian])
        longest = max(row[place] for place, row in enumerate(gramian))
        share = self._share(square, sum(map(sum, gramian)) / size / size, longest)
        return [(1 / size + share * each) / divisor for each in w]

    def _share(self, square: float, mean: float, longest: float) -> float:
        """Return c ||g_0|| / ||g_w||, from the squares of g_w, of g_0, and of the longest gradient."""
        known = max(math.sqrt(max(square, 0.0)), _SHORTEST * math.sqrt(max(longest, 0.0)))
        return self.c * math.sqrt(max(mean, 0.0)) / known if known > 0 else 0.0

    @property
    def _divisor(self) -> float:
        return 1 + self.c**2 if self.rescale else 1.0
