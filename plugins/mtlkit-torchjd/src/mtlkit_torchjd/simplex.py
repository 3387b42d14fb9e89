"""Simplex: the strategies ``torchjd-modo`` and ``torchjd-sdmgrad``, weights that walk on the simplex step by step.

TorchJD wants the inner products of the gradients of two batches, drawn apart, which has no bias and costs both. Here it
is given those of the step's batch, as mtlkit's ``modo`` and ``sdmgrad`` are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from mtlkit_torchjd.base import NotNegative, Positive, TorchJDStrategy, aggregation, of_present, per_task
from mtlkit_torchjd.shares import Shares

__all__ = ["MoDo", "SDMGrad"]


class _Walk(TorchJDStrategy):
    """What both have in common: the weights where the walk has come to, in TorchJD's buffer of the name `place`."""

    place: str

    def __init__(self, n_tasks: int) -> None:
        super().__init__(n_tasks)
        self.walked = Shares(n_tasks)

    def ask(self, gramian: Tensor, present: Tensor) -> Tensor:
        weighting = self.weighting(present)
        setattr(weighting, self.place, self.walked.of(present))
        weighting._state_key = (len(present), gramian.dtype, gramian.device)
        weights: Tensor = weighting(gramian)
        if self.training:
            self.walked.keep(present, getattr(weighting, self.place))
        return weights


class MoDo(_Walk):
    """TorchJD's MoDo: weights that follow the common descent direction step by step.

    Chen, Fernando, Ying, Chen, JMLR 2024.

    Departure from the paper: the inner products are those of one batch's gradients.

    Args:
        n_tasks: The number of tasks.
        gamma: The learning rate of the weights.
        rho: The pull towards equal weights.
    """

    place = "_lambda"

    def __init__(self, n_tasks: int, *, gamma: Positive = 0.1, rho: NotNegative = 0.1) -> None:
        super().__init__(n_tasks)
        self.gamma, self.rho = gamma, rho

    def weighting(self, present: Tensor) -> Any:
        return aggregation().MoDoWeighting(self.gamma, self.rho)


class SDMGrad(_Walk):
    """TorchJD's SDMGrad: the common descent direction, held near the mean gradient.

    Xiao, Ban, Ji, NeurIPS 2023.

    Departure from the paper: the inner products are those of one batch's gradients.

    Args:
        n_tasks: The number of tasks.
        lr: The learning rate of the weights.
        momentum: Its momentum.
        n_iter: How many steps the weights take in each step.
        lambda_: How near to the preferred gradient the direction is held.
        pref_vector: The combination that is the preferred gradient, one number for each task; 1/K by default.
    """

    place = "_w"

    def __init__(
        self,
        n_tasks: int,
        *,
        lr: Positive = 10.0,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        n_iter: Annotated[int, Field(ge=1, le=10_000)] = 20,
        lambda_: NotNegative = 0.3,
        pref_vector: Sequence[float] | None = None,
    ) -> None:
        super().__init__(n_tasks)
        self.lr, self.momentum, self.n_iter, self.lambda_ = lr, momentum, n_iter, lambda_
        self.pref_vector = per_task("pref_vector", pref_vector, n_tasks)

    def weighting(self, present: Tensor) -> Any:
        return aggregation().SDMGradWeighting(
            self.lr, self.momentum, self.n_iter, self.lambda_, of_present(self.pref_vector, present)
        )
