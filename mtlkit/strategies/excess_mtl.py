"""The ``excess-mtl`` strategy: the tasks that are furthest from their optimum weigh more.

>>> ExcessMTL(2).combine(torch.ones(2).double(), torch.eye(2)).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.rows import Rows

__all__ = ["ExcessMTL"]

_STEEPEST = 50.0  # the largest exponent of one step: it keeps the weights finite


class ExcessMTL(Strategy):
    """Robust multi-task learning by excess risks (He, Zhou, Zhang et al., ICML 2024, equations 6 to 9).

    The excess risk of a task, how far its loss is above the least that it could be, is estimated from its gradient and
    from the sum of its squares so far, a diagonal stand-in for the Hessian:

        E_i = g_i' diag(sqrt(sum_t g_i(t)^2))^-1 g_i,  relative to its first value that is not 0
        w_i <- w_i exp(eta E_i),  scaled to sum to K

    with w = 1 at the start. With tasks absent, the sum over those present is what is kept.

    Departures from the paper: the weights sum to K, not to 1, so that the scale is that of equal weights of 1; what an
    excess risk is relative to is its first value, as in the authors' code, and no average over the first epochs.

    Memory: the roots of the sums of squares, as much as the gradients of all tasks.

    Args:
        n_tasks: The number of tasks.
        eta: The step size of the weights.
    """

    needs: ClassVar[Needs] = Needs.JACOBIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    task_weights: Tensor  # [T]
    initial: Tensor  # [T] the first E_i that is not 0; NaN until it is known

    def __init__(self, n_tasks: int, *, eta: Annotated[float, Field(gt=0)] = 1e-2) -> None:
        super().__init__(n_tasks)
        self.eta = eta
        self.roots = Rows(n_tasks)
        self.register_buffer("task_weights", torch.ones(n_tasks, dtype=torch.float64))
        self.register_buffer("initial", torch.full((n_tasks,), math.nan, dtype=torch.float64))

    def combine(self, losses: Tensor, jacobian: Tensor, tasks: Tensor | None = None) -> Weighting:
        present = self._present(tasks, losses)
        kept = self.roots.like(jacobian)
        # No square is formed, which would leave float32 long before its root does.
        roots = torch.hypot(kept[present], jacobian)  # [K, P]
        sizes = jacobian.abs()
        excess = (sizes * (sizes / torch.where(roots > 0, roots, 1))).sum(1).to(losses)  # [K]
        initial = torch.where(self.initial[present].isnan(), excess, self.initial[present])
        relative = excess / torch.where(initial > 0, initial, 1)
        before = self.task_weights[present]
        moved = before * (self.eta * relative).clamp(max=_STEEPEST).exp()
        weights = moved * (before.sum() / moved.sum())
        if self.training:
            self.roots.keep(tasks, roots)
            self.initial[present] = torch.where(initial > 0, initial, math.nan)
            self.task_weights[present] = weights
        return Weighting(weights)
