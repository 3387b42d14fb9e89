"""The strategies ``mgda`` and ``mgda-ub``: the shortest convex combination of the tasks' gradients.

>>> MGDA(2).weights(torch.ones(2).double(), torch.diag(torch.tensor([1.0, 4.0]).double())).weights.tolist()
[0.8, 0.2]
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mtlkit.solvers import min_norm_point
from mtlkit.solvers.few import min_norm_of_few
from mtlkit.strategies.base import GramianStrategy, Needs, Over

__all__ = ["MGDA", "MGDAUB"]


class MGDA(GramianStrategy):
    """Multiple-gradient descent algorithm (Désidéri, 2012; Sener, Koltun, NeurIPS 2018, equation 3).

        w = argmin over the simplex of ||sum_i w_i g_i||^2

    over all shared parameters. The direction is a descent direction for every task, or 0 at a Pareto-stationary point.
    The minimum is solved for exactly. A weight may be 0, so the heads get their own gradients, as in algorithm 2.

    Args:
        n_tasks: The number of tasks.
        normalize: What each gradient is divided by while w is solved for: nothing, its norm (``l2``), its loss, or both
            (``loss+``). The gradients that w then combines are the ones that were measured.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS
    plain_heads: ClassVar[bool] = True

    def __init__(self, n_tasks: int, *, normalize: Literal["none", "l2", "loss", "loss+"] = "none") -> None:
        super().__init__(n_tasks)
        self.normalize = normalize

    def solve(self, gramian: Tensor, losses: Tensor) -> Tensor:
        if self.normalize != "none":
            norms = gramian.diagonal().clamp(min=0).sqrt()
            divisors = {"l2": norms, "loss": losses.abs(), "loss+": losses.abs() * norms}[self.normalize]
            divisors = torch.where(divisors > 0, divisors, 1)
            gramian = gramian / divisors / divisors[:, None]
        return self.solved(min_norm_point, gramian, few=min_norm_of_few)


class MGDAUB(MGDA):
    """MGDA's upper bound (Sener, Koltun, NeurIPS 2018, section 3.3): ``mgda`` at the features.

    The gradients are those at the representation that the heads share, kept for each example, so that no backward pass
    through the encoder is spent on any task. A head gets its loss's own gradient.

    Args:
        n_tasks: The number of tasks.
        normalize: As for ``mgda``.
    """

    over: ClassVar[Over | None] = Over.FEATURES
