"""The strategies ``imtl-g`` and ``imtl``: a direction with equal projections on every task's gradient.

>>> IMTLG(2).weights(torch.ones(2).double(), torch.diag(torch.tensor([1.0, 4.0]).double())).weights.tolist()
[0.6666666666666666, 0.3333333333333333]
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.solvers.few import FEW, Rows
from mtlkit.strategies.base import GramianStrategy, Needs, Over, Weighting
from mtlkit.strategies.numbers import tensor_of
from mtlkit.strategies.unit_gradients import cosines_of, equal_projections, equal_projections_of_few

__all__ = ["IMTL", "IMTLG"]

_CANCELLED = 1e-9  # what is left of weights that cancel, of their sizes: few enough digits to look at closely


def _impartial(gramian: Tensor) -> Tensor:
    """Return the weights, of sum 1 or -1, whose direction has equal and positive projections on all unit gradients."""
    if len(gramian) <= FEW:
        weights_of_few = _impartial_few(gramian.tolist())
        if weights_of_few is not None:
            return tensor_of(weights_of_few, gramian)
    cosines, inverse = cosines_of(gramian)
    weights = equal_projections(cosines) * inverse
    total = weights.sum().abs()
    # Where the weights cancel, the direction has no scale of its own; they are then left to sum to 1 in size.
    if total <= torch.finfo(total.dtype).eps * weights.abs().sum():
        total = weights.abs().sum()
    return weights / total if total != 0 else torch.full_like(weights, 1 / len(weights))


def _impartial_few(gramian: Rows) -> list[float] | None:
    """Do so in plain numbers, where the weights do not cancel."""
    found = equal_projections_of_few(gramian, [1.0] * len(gramian))
    if found is None:
        return None
    weights = [each / norm for each, norm in zip(found.coefficients, found.norms, strict=True)]
    total = abs(sum(weights))
    return [weight / total for weight in weights] if total > _CANCELLED * sum(map(abs, weights)) else None


class IMTLG(GramianStrategy):
    """Impartial multi-task learning, gradient balance (Liu, Li, Kuang et al., ICLR 2021).

    Equations 1 and 2:

        d = sum_i w_i g_i  with  d . g_i / ||g_i||  equal for all i,  sum_i w_i = 1

    at the features. In terms of the Gram matrix, w is proportional to pinv(M) ||g||. A weight may be negative, so the
    heads get their own gradients. A task whose gradient is 0 takes no part.

    Departure from the paper: where the direction with sum_i w_i = 1 would climb every loss, which happens when a task
    with a short gradient has a negative weight, it is turned round, and the sum is -1. Scaling a loss then never turns
    the direction.

    Args:
        n_tasks: The number of tasks.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.FEATURES
    plain_heads: ClassVar[bool] = True

    def solve(self, gramian: Tensor, losses: Tensor) -> Tensor:
        return _impartial(gramian)


class IMTL(GramianStrategy):
    """Impartial multi-task learning, both balances (Liu, Li, Kuang et al., ICLR 2021, algorithm 1).

    Each loss is scaled by exp(s_i), where s descends on sum_i exp(s_i) L_i - s_i, as in ``imtl-l``; the heads get the
    gradients of the scaled losses. What is shared gets their combination by ``imtl-g``.

    Args:
        n_tasks: The number of tasks.
        lr: The learning rate of s; None for that of the model.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.FEATURES

    def __init__(self, n_tasks: int, *, lr: Annotated[float, Field(gt=0)] | None = None) -> None:
        super().__init__(n_tasks)
        self.log_scales = nn.ParameterList(torch.zeros((), dtype=torch.float64) for _ in range(n_tasks))
        self.lr = lr

    def weights(self, losses: Tensor, gramian: Tensor | None = None, tasks: Tensor | None = None) -> Weighting:
        gramian = self._given(gramian)
        every: list[Tensor] = list(self.log_scales.parameters())
        s = torch.stack(every if tasks is None else [every[task] for task in tasks.tolist()])  # [K]
        scales = s.detach().exp()
        weights = _impartial(gramian * scales * scales[:, None]) * scales
        return Weighting(weights, (s.exp() * losses - s).sum(), head_weights=scales)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [group | ({"lr": self.lr} if self.lr else {}) for group in super().parameter_groups()]
