"""The strategies ``nash-mtl`` and ``fairgrad``: the tasks bargain for the direction.

>>> NashMTL(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[1.0, 1.0]
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtlkit.solvers import nash_weights
from mtlkit.solvers.few import FEW, nash_of_few
from mtlkit.strategies.base import GramianStrategy, Needs, Over, Weighting
from mtlkit.strategies.numbers import tensor_of

__all__ = ["FairGrad", "NashMTL"]

_LARGEST = 1e30  # what a weight is at most: beyond, it would leave float32 for a gradient that is next to nothing


class FairGrad(GramianStrategy):
    """Fair resource allocation (Ban, Ji, ICML 2024).

    The direction of the greatest alpha-fair utility of the tasks' improvements (algorithm 1):

        M w = w^(-1/alpha),  elementwise,  d = sum_i w_i g_i

    With alpha = 1 it is ``nash-mtl``; the larger alpha is, the more the least improvement counts. Where the equations
    have no solution (the gradients have a positive combination that is 0, so that the point is Pareto-stationary) or
    none is found, the last good weights are used, and the buffer ``failures`` counts it.

    Args:
        n_tasks: The number of tasks.
        alpha: The fairness.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    last: Tensor  # [T] the last good weights
    failures: Tensor  # [] how often none were found

    def __init__(self, n_tasks: int, *, alpha: Annotated[float, Field(gt=0)] = 2.0) -> None:
        super().__init__(n_tasks)
        self.alpha = alpha
        self.register_buffer("last", torch.ones(n_tasks, dtype=torch.float64))
        self.register_buffer("failures", torch.zeros((), dtype=torch.float64))

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        weights = self._solution(self._given(gramian))
        if weights is None:
            if self.training:
                self.failures += 1
            return Weighting(self.last.clone() if tasks is None else self.last[tasks])
        if self.training:
            if tasks is None:
                self.last.copy_(weights)
            else:
                self.last[tasks] = weights
        return Weighting(weights)

    def _solution(self, gramian: Tensor) -> Tensor | None:
        """Return what solves the equations ``[K]``; None where nothing was found to."""
        if len(gramian) <= FEW:
            answer = nash_of_few(gramian.tolist(), self.alpha)
            if answer is not None:
                return tensor_of([min(each, _LARGEST) for each in answer], gramian)
        found, good = nash_weights(gramian.detach().cpu().numpy(), self.alpha)
        return torch.from_numpy(np.minimum(found, _LARGEST)).to(gramian) if good else None


class NashMTL(FairGrad):
    """The Nash bargaining solution (Navon, Shamsian, Achituve et al., ICML 2022, algorithm 1).

        M a = 1 / a,  elementwise,  d = sum_i a_i g_i,  so that ||d||^2 = K

    The direction does not change when a loss is scaled. Where there is no solution, as for ``fairgrad``, the last good
    weights are used.

    Departure from the paper: the equations are solved exactly at every step, by Newton's method, in place of a
    sequence of convex approximations. The authors' code also divides M by its norm, so that the direction grows with
    the gradients, and then shortens it to at most 1; here its length is sqrt(K), as the equations say.

    Args:
        n_tasks: The number of tasks.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks, alpha=1.0)
