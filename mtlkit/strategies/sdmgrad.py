"""The ``sdmgrad`` strategy: the common descent direction, held near the mean gradient.

>>> SDMGrad(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.solvers import simplex_qp
from mtlkit.strategies.base import GramianStrategy, Needs, Over

__all__ = ["SDMGrad"]


class SDMGrad(GramianStrategy):
    """Direction-oriented multi-objective learning (Xiao, Ban, Ji, NeurIPS 2023).

    With g_0 the mean gradient and g_w = sum_i w_i g_i,

        w = argmin over the simplex of 0.5 ||g_w + lambda g_0||^2,  d = (g_w + lambda g_0) / (1 + lambda)

    With lambda = 0 it is ``mgda``, and the mean gradient where lambda is large.

    Departure from the paper: w is solved for exactly on the step's batch, where the paper takes some stochastic steps
    towards it, each on batches of its own.

    Args:
        n_tasks: The number of tasks.
        lam: lambda, how near to the mean gradient the direction is held.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(self, n_tasks: int, *, lam: Annotated[float, Field(ge=0)] = 0.3) -> None:
        super().__init__(n_tasks)
        self.lam = lam

    def solve(self, gramian: Tensor, losses: Tensor) -> Tensor:
        mean = torch.full_like(gramian[0], 1 / len(gramian))
        w = self.solved(lambda m: simplex_qp(m, self.lam * m.mean(1)), gramian)
        return (w + self.lam * mean) / (1 + self.lam)
