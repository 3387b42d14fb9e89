"""Gathered: columns that stay where they are, such as those of a file that is mapped."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mtlkit.data.delivery import Delivery
from mtlkit.data.reader import Reader, evenly
from mtlkit.task import Split

__all__ = ["Gathered"]


class Gathered(Reader):
    """Columns that stay where they are: each batch is gathered from them, converted, and moved to the run's device.

    Args:
        split: The columns.
        chosen: Which rows of them, in which order; all by default.
        delivery: How batches get to the run's device; they stay as they are by default.
    """

    def __init__(self, split: Split, chosen: Tensor | None = None, delivery: Delivery | None = None) -> None:
        self.split = split
        self.chosen = chosen
        self.delivery = delivery
        self.row = split.row
        self.rows = len(self)
        self.device = split.device  # of the indices that rows are asked for by

    def __len__(self) -> int:
        return len(self.split) if self.chosen is None else len(self.chosen)

    @property
    def targets(self) -> dict[str, Tensor]:
        """The target columns of all these rows."""
        given = self.split.targets
        return {n: column if self.chosen is None else column[self.chosen] for n, column in given.items()}

    def take(self, rows: Tensor) -> Split:
        """Return these rows, in this order."""
        taken = self.split.take(rows if self.chosen is None else self.chosen[rows])
        return taken if self.delivery is None else self.delivery.of(taken)

    def batches(self, size: int) -> Iterator[Split]:
        """Yield every row once, in order."""
        for rows in torch.arange(len(self)).split(size):
            yield self.take(rows)

    def some(self, count: int) -> Split:
        """Return so many rows, evenly spaced."""
        return self.take(evenly(len(self), count))

    def held(self, delivery: Delivery) -> Split:
        """Return all rows in memory, on the run's device."""
        taken = self.split.take(torch.arange(len(self.split)) if self.chosen is None else self.chosen)
        return taken.to(delivery.device, delivery.dtype)
