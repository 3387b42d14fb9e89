"""InMemoryStream: batches of rows that are in columns, each a single index operation per column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mtlkit.data.gathered import Gathered
from mtlkit.data.order import Order
from mtlkit.data.stream import Stream
from mtlkit.task import Split

__all__ = ["InMemoryStream"]


class InMemoryStream(Stream):
    """Endless batches of equal size over a split; one may hold the end of a pass and the beginning of the next.

    Args:
        split: The rows, in memory or in files that are mapped to it.
        order: Which row comes when.
        batch_size: Rows in a batch; no more than the split has are drawn.

    Attributes:
        position: How many rows have been drawn, which is the stream's whole state.
    """

    def __init__(self, split: Split | Gathered, order: Order, *, batch_size: int) -> None:
        self.split = split
        self.order = order
        self.rows = len(split)
        self.batch_size = min(batch_size, len(split))
        self.position = 0

    def another(self, name: str) -> InMemoryStream:
        """Return a stream of the same rows from their beginning, in an order of its own, which depends on the name."""
        return InMemoryStream(self.split, self.order.another(name), batch_size=self.batch_size)

    def next(self) -> Split:
        """Return the next batch."""
        rows = self.order.rows(self.position, self.batch_size)
        self.position += self.batch_size
        return self.split.take(rows.to(self.split.device))

    def state(self) -> dict[str, Any]:
        """Return the position."""
        return {"position": self.position}

    def rows_at(self, state: Mapping[str, Any]) -> Tensor:
        """Return the indices of the rows of the batch drawn from a state on."""
        return self.order.rows(int(state["position"]), self.batch_size)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a position."""
        self.position = int(state["position"])
