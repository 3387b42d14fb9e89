"""The ``sdmgrad`` strategy: the common descent direction, held near the mean gradient.

>>> import torch
>>> SDMGrad(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from mtlkit.solvers import simplex_qp
from mtlkit.solvers.few import Rows, dot, simplex_qp_of_few
from mtlkit.strategies.base import Needs, Over
from mtlkit.strategies.preference import Preferences, PreferringStrategy

__all__ = ["SDMGrad"]


class SDMGrad(PreferringStrategy):
    """Direction-oriented multi-objective learning (Xiao, Ban, Ji, NeurIPS 2023).

    With g_0 = sum_i p_i g_i, the mean gradient by default, and g_w = sum_i w_i g_i,

        w = argmin over the simplex of 0.5 ||g_w + lambda g_0||^2,  d = (g_w + lambda g_0) / (1 + lambda)

    With lambda = 0 it is ``mgda``, and g_0 where lambda is large.

    Departure from the paper: w is solved for exactly on the step's batch, where the paper takes some stochastic steps
    towards it, each on batches of its own.

    Args:
        n_tasks: The number of tasks.
        lam: lambda, how near to g_0 the direction is held.
        preference: p, one positive number for each task; 1/K for all by default.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def __init__(
        self, n_tasks: int, *, lam: Annotated[float, Field(ge=0)] = 0.3, preference: Preferences = None
    ) -> None:
        super().__init__(n_tasks, preference=preference)
        self.lam = lam

    def prefer(self, gramian: Tensor, preference: list[float]) -> Tensor:
        towards = [self.lam * each for each in preference]  # lambda g_0, in terms of the gradients

        def among_few(rows: Rows) -> list[float] | None:
            w = simplex_qp_of_few(rows, [dot(row, towards) for row in rows])
            return w and [(each + toward) / (1 + self.lam) for each, toward in zip(w, towards, strict=True)]

        return self.solved(
            lambda m: (simplex_qp(m, m @ np.array(towards)) + towards) / (1 + self.lam), gramian, few=among_few
        )
