"""The ``config`` strategy: the direction with one angle to every gradient, as long as they agree.

>>> ConFIG(2).weights(torch.ones(2).double(), torch.diag(torch.tensor([1.0, 4.0]).double())).weights.tolist()
[1.5, 0.75]
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mtlkit.solvers.few import FEW, Rows, dot
from mtlkit.strategies.base import Needs, Over
from mtlkit.strategies.numbers import tensor_of
from mtlkit.strategies.preference import PreferringStrategy
from mtlkit.strategies.unit_gradients import cosines_of, equal_projections, equal_projections_of_few

__all__ = ["ConFIG"]


class ConFIG(PreferringStrategy):
    """Conflict-free inverse gradients (Liu, Chu, Thuerey, ICLR 2025, equations 2 and 3).

    With u_i the unit gradients and U their matrix,

        v = pinv(U') p,  d = (sum_i g_i . v / ||v||) v / ||v||

    so that d has the same angle with every gradient where p is the same for all, no more than a right one, and is the
    longer the more they agree; with a preference p, the cosines of the angles are in its proportion. A weight may be
    negative, so the heads get their own gradients. A task whose gradient is 0 takes no part.

    Args:
        n_tasks: The number of tasks.
        preference: p, one positive number for each task; the same for all by default.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS
    plain_heads: ClassVar[bool] = True

    def prefer(self, gramian: Tensor, preference: list[float]) -> Tensor:
        largest = max(preference)
        proportions = [each / largest for each in preference]
        if len(gramian) <= FEW:
            weights = _agreeing_few(gramian.tolist(), proportions)
            if weights is not None:
                return tensor_of(weights, gramian)
        cosines, inverse = cosines_of(gramian)
        coefficients = equal_projections(cosines, tensor_of(proportions, cosines))  # of u_i in v
        square = coefficients @ cosines @ coefficients  # ||v||^2
        if square <= torch.finfo(square.dtype).eps:
            return torch.zeros_like(inverse)  # opposite gradients: no direction serves them all
        agreement = torch.where(inverse > 0, 1 / inverse, 0.0) @ cosines @ coefficients  # sum_i g_i . v
        return coefficients * inverse * (agreement / square)


def _agreeing_few(gramian: Rows, proportions: list[float]) -> list[float] | None:
    """Return the weights ``[K]`` in plain numbers, where every gradient counts: then v . u_i is p_i."""
    found = equal_projections_of_few(gramian, proportions)
    if found is None:
        return None
    square = dot(found.coefficients, proportions)  # ||v||^2
    agreement = dot(found.norms, proportions)  # sum_i g_i . v
    return [each / norm * (agreement / square) for each, norm in zip(found.coefficients, found.norms, strict=True)]
