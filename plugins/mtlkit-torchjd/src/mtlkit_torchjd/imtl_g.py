"""IMTL-G: the strategy ``torchjd-imtl-g``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mtlkit_torchjd.base import TorchJDStrategy, aggregation

__all__ = ["IMTLG"]


class IMTLG(TorchJDStrategy):
    """TorchJD's IMTLG: a direction with equal projections on every task's gradient.

    Liu, Li, Kuang et al., ICLR 2021, equation 6. At all shared parameters, where mtlkit's ``imtl-g`` is at the
    features. The weights sum to 1: where that needs a direction that climbs every loss, that is what it is, and
    mtlkit's turns it round. A weight may be negative, so the heads get their own gradients.

    Args:
        n_tasks: The number of tasks.
    """

    plain_heads = True

    def weighting(self, present: Tensor) -> Any:
        return aggregation().IMTLGWeighting()
