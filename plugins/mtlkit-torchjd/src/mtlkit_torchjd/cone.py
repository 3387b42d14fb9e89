"""Cone: the strategies ``torchjd-upgrad`` and ``torchjd-dualproj``, gradients projected to where no task is hurt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mtlkit_torchjd.base import NotNegative, TorchJDStrategy, aggregation, extra, of_present, per_task, present_in

__all__ = ["DualProj", "UPGrad"]


class _Cone(TorchJDStrategy):
    """What both have in common: a preference, and TorchJD's projector."""

    name: str

    def __init__(
        self,
        n_tasks: int,
        *,
        pref_vector: Sequence[float] | None = None,
        norm_eps: NotNegative = 1e-4,
        reg_eps: NotNegative = 1e-4,
    ) -> None:
        super().__init__(n_tasks)
        self.pref_vector = per_task("pref_vector", pref_vector, n_tasks)
        self.norm_eps, self.reg_eps = norm_eps, reg_eps
        with extra("quadprog"):
            self.weighting(present_in(None, n_tasks))

    def weighting(self, present: Tensor) -> Any:
        from torchjd.linalg import QuadprogProjector  # noqa: PLC0415 - as in aggregation()

        projector = QuadprogProjector(norm_eps=self.norm_eps, reg_eps=self.reg_eps)
        return getattr(aggregation(), self.name)(of_present(self.pref_vector, present), projector)


class UPGrad(_Cone):
    """TorchJD's UPGrad: each gradient projected to where no task is hurt, and their mean.

    Quinton, Rey, 2024, equation 5. Like mtlkit's ``upgrad``, but for TorchJD's regularisation: reg_eps is added to the
    diagonal of the Gram matrix, which is first divided by its trace. Where gradients conflict much, the direction is
    then another. Needs the extra ``quadprog``.

    Args:
        n_tasks: The number of tasks.
        pref_vector: What the projected gradients are summed with, one number for each task; 1/K by default.
        norm_eps: A trace below this counts as 0.
        reg_eps: What is added to the diagonal.
    """

    name = "UPGradWeighting"


class DualProj(_Cone):
    """TorchJD's DualProj: the mean gradient, projected to where no task is hurt.

    GEM (Lopez-Paz, Ranzato, NeurIPS 2017, equation 11). Like mtlkit's ``dualproj``, but for TorchJD's regularisation,
    as for ``torchjd-upgrad``. Needs the extra ``quadprog``.

    Args:
        n_tasks: The number of tasks.
        pref_vector: What the gradients are summed with before, one number for each task; 1/K by default.
        norm_eps: A trace below this counts as 0.
        reg_eps: What is added to the diagonal.
    """

    name = "DualProjWeighting"
