"""The strategies ``upgrad`` and ``dualproj``: gradients projected to where no task is hurt.

>>> import torch
>>> UPGrad(2).weights(torch.ones(2).double(), torch.eye(2).double()).weights.tolist()
[0.5, 0.5]
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from torch import Tensor

from mtlkit.solvers import dual_cone
from mtlkit.solvers.few import Rows, dot, dual_cone_of_few
from mtlkit.strategies.base import Needs, Over
from mtlkit.strategies.preference import PreferringStrategy

__all__ = ["DualProj", "UPGrad"]


class UPGrad(PreferringStrategy):
    """Unconflicting projection of gradients (Quinton, Rey, 2024, equations 4 to 6).

    Each gradient is projected on the dual cone of all, {d : d . g_j >= 0 for all j}, and the projections are averaged,
    or summed with a preference p, as in the paper's extension:

        v_i = argmin over v >= e_i of v' M v,  d = sum_j w_j g_j  with  w = sum_i p_i v_i

    so that d hurts no task, to first order.

    Args:
        n_tasks: The number of tasks.
        preference: p, one positive number for each task; 1/K for all by default.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def prefer(self, gramian: Tensor, preference: list[float]) -> Tensor:
        return self.solved(
            lambda m: np.array(preference) @ dual_cone(m, np.eye(len(m))),
            gramian,
            few=lambda rows: _sum_of_few(rows, preference),
        )


class DualProj(PreferringStrategy):
    """The mean gradient, projected on the dual cone (GEM; Lopez-Paz, Ranzato, NeurIPS 2017, equation 11).

        w = argmin over v >= p of v' M v,  d = sum_i w_i g_i

    so that d hurts no task, to first order, and is otherwise as near to sum_i p_i g_i, the mean gradient by default, as
    can be.

    Departure from the paper, whose tasks come one after another: it projects the gradient of the latest of them on the
    cone of those before, and here it is the mean of all that is projected, or their sum with the preference.

    Args:
        n_tasks: The number of tasks.
        preference: p, one positive number for each task; 1/K for all by default.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    def prefer(self, gramian: Tensor, preference: list[float]) -> Tensor:
        return self.solved(
            lambda m: dual_cone(m, [preference])[0],
            gramian,
            few=lambda rows: _mean_of_few(rows, preference),
        )


def _sum_of_few(gramian: Rows, preference: list[float]) -> list[float] | None:
    """Return sum_i p_i v_i ``[K]``."""
    projected = dual_cone_of_few(gramian)
    return None if projected is None else [dot(preference, column) for column in zip(*projected, strict=True)]


def _mean_of_few(gramian: Rows, preference: list[float]) -> list[float] | None:
    """Return v ``[K]``."""
    projected = dual_cone_of_few(gramian, [preference])
    return None if projected is None else projected[0]
