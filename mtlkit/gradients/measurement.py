"""What one backward pass saw and did."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Measurement"]


class Measurement(NamedTuple):
    """What one backward pass saw and did.

    Attributes:
        losses: The losses before weighting ``[K]``.
        weights: The weights that were applied to them ``[K]``.
        gramian: The inner products of the unweighted gradients ``[K, K]``; None where none were measured.
    """

    losses: Tensor
    weights: Tensor
    gramian: Tensor | None = None

    @property
    def gradient_norms(self) -> Tensor | None:
        """The norm of each task's unweighted gradient ``[K]``; None where none was measured."""
        return None if self.gramian is None else self.gramian.diagonal().clamp(min=0).sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """The cosine between each two tasks' gradients ``[K, K]``, 0 with a zero gradient; None if not measured."""
        norms = self.gradient_norms
        if self.gramian is None or norms is None:
            return None
        scale = torch.where(norms > 0, norms, 1)
        return (self.gramian / scale / scale[:, None]).clamp(-1, 1)

    @property
    def conflicts(self) -> float | None:
        """The fraction of pairs of tasks whose gradients point apart; None without a measurement, or with one task."""
        if self.gramian is None or len(self.gramian) < 2:  # noqa: PLR2004 - a pair is of two
            return None
        n_tasks = len(self.gramian)
        return float((self.gramian.triu(1) < 0).sum()) / (n_tasks * (n_tasks - 1) / 2)
