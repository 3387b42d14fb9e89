"""Stream: endless training batches from one source, each a single index operation per column."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mtlkit.data.splits import derived_seed
from mtlkit.task import Split

__all__ = ["Stream"]


class Stream:
    """Endless batches of equal size over a split.

    Each pass over the rows is a new permutation, which depends on the seed and the number of the pass alone; a batch
    may hold the end of one pass and the beginning of the next. The position is therefore the stream's whole state.

    Args:
        split: The rows.
        batch_size: Rows in a batch; no more than the split has are drawn.
        seed: The same seed draws the same rows in the same order.

    Attributes:
        position: How many rows have been drawn.
    """

    def __init__(self, split: Split, *, batch_size: int, seed: int) -> None:
        self.split = split
        self.batch_size = min(batch_size, len(split))
        self.seed = seed
        self.position = 0
        self._pass = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def batches(self) -> int:
        """The number of batches in one pass over the rows."""
        return math.ceil(len(self.split) / self.batch_size)

    def next(self) -> Split:
        """Return the next batch."""
        rows: list[Tensor] = []
        missing = self.batch_size
        while missing:
            number, offset = divmod(self.position, len(self.split))
            part = self._permutation(number)[offset : offset + missing]
            rows.append(part)
            self.position += len(part)
            missing -= len(part)
        return self.split.take(torch.cat(rows).to(self.split.device))

    def _permutation(self, number: int) -> Tensor:
        if number != self._pass:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, number))
            self._order = torch.randperm(len(self.split), generator=generator)
            self._pass = number
        return self._order
