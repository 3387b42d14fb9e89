"""Aligned MTL: the strategy ``torchjd-aligned-mtl``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from mtlkit_torchjd.base import TorchJDStrategy, aggregation, of_present, per_task

__all__ = ["AlignedMTL"]


class AlignedMTL(TorchJDStrategy):
    """TorchJD's AlignedMTL: the gradients' principal components are made equal in size.

    Senushkin, Patakin, Kuznetsov, Konushin, CVPR 2023, algorithm 1. A weight may be negative, so the heads get their
    own gradients.

    Args:
        n_tasks: The number of tasks.
        pref_vector: One number for each task; 1/K by default.
        scale_mode: What size they are made: that of the least, the median or the mean eigenvalue.
    """

    plain_heads = True

    def __init__(
        self,
        n_tasks: int,
        *,
        pref_vector: Sequence[float] | None = None,
        scale_mode: Literal["min", "median", "rmse"] = "min",
    ) -> None:
        super().__init__(n_tasks)
        self.pref_vector = per_task("pref_vector", pref_vector, n_tasks)
        self.scale_mode = scale_mode

    def weighting(self, present: Tensor) -> Any:
        return aggregation().AlignedMTLWeighting(of_present(self.pref_vector, present), self.scale_mode)
