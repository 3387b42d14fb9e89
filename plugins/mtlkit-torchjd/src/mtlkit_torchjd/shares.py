"""Shares: weights on the simplex that go on from step to step, with tasks that may be absent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Shares"]


class Shares(nn.Module):
    """One weight for each task, 1/T at first, of sum 1.

    The weights of the tasks present are scaled to sum to 1 for TorchJD; what they sum to among all stays.

    Args:
        n_tasks: T.
    """

    values: Tensor  # [T]

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((n_tasks,), 1 / n_tasks, dtype=torch.float64))

    def of(self, present: Tensor) -> Tensor:
        """Return the weights of the tasks present ``[K]``, of sum 1, on the CPU."""
        held = self.values.cpu()[present]
        total = held.sum()
        return held / total if total > 0 else torch.full_like(held, 1 / len(held))

    def keep(self, present: Tensor, weights: Tensor) -> None:
        """Keep new weights ``[K]``, of sum 1, of the tasks present."""
        values = self.values.cpu()
        values[present] = weights.to(values) * values[present].sum()
        self.values.copy_(values)
