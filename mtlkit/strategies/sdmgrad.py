"""The ``sdmgrad`` strategy: the common descent direction, held near the mean gradient.

>>> import torch
>>> SDMGrad(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from mtlkit.solvers import simplex_qp
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

    def prefer(self, gramian: Tensor, preference: Tensor) -> Tensor:
        towards = self.lam * preference  # of g_0 in lambda g_0
        w = self.solved(lambda m: simplex_qp(m, m @ towards.cpu().numpy()), gramian)
        return (w + towards) / (1 + self.lam)
