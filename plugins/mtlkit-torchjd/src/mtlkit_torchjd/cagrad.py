"""CAGrad: the strategy ``torchjd-cagrad``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtlkit_torchjd.base import NotNegative, TorchJDStrategy, aggregation, extra, present_in

__all__ = ["CAGrad"]


class CAGrad(TorchJDStrategy):
    """TorchJD's CAGrad: near the mean gradient, the direction that serves the worst-off task best.

    Liu, Liu, Jin, Stone, Liu, NeurIPS 2021, algorithm 1. The problem is solved by cvxpy and Clarabel: needs the extra
    ``cagrad``. Where the combination is shorter than norm_eps, TorchJD takes the point for Pareto-stationary, and all
    weights are 0; so the heads get their own gradients.

    Args:
        n_tasks: The number of tasks.
        c: How far from the mean gradient the direction may be, in its length.
        norm_eps: A length, and a trace of the Gram matrix, below this counts as 0.
    """

    plain_heads = True

    def __init__(self, n_tasks: int, *, c: NotNegative = 0.5, norm_eps: NotNegative = 1e-4) -> None:
        super().__init__(n_tasks)
        self.c, self.norm_eps = c, norm_eps
        with extra("cagrad"):
            self.weighting(present_in(None, n_tasks))

    def weighting(self, present: Tensor) -> Any:
        return aggregation().CAGradWeighting(self.c, self.norm_eps)
