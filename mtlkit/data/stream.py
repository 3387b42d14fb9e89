"""Stream: endless training batches from one source. The engine knows of a source's rows no more than this."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mtlkit.task import Split

__all__ = ["Stream"]


class Stream(ABC):
    """Endless batches of equal size, whose place can be saved and gone back to.

    Attributes:
        rows: How many rows one pass has; None where it is unknown.
        batch_size: Rows in a batch.
    """

    rows: int | None
    batch_size: int

    @property
    def batches(self) -> int | None:
        """The number of batches in one pass over the rows, the last one whole or not; None where it is unknown."""
        return None if self.rows is None else math.ceil(self.rows / self.batch_size)

    @abstractmethod
    def another(self, name: str) -> Stream:
        """Return a stream of the same rows from their beginning, in an order of its own, which depends on the name."""

    @abstractmethod
    def next(self) -> Split:
        """Return the next batch."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return where the stream is, as what a checkpoint can hold: :meth:`next` goes on from here after a restore."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where :meth:`state` was asked, forwards or back.

        Raises:
            KeyError, TypeError, ValueError: If it is no state of such a stream.
        """

    def rows_at(self, state: Mapping[str, Any]) -> Tensor | None:  # noqa: ARG002 - for others
        """Return which rows of the split make the batch drawn from a state on, by index; None where it is not known."""
        return None

    def close(self) -> None:  # noqa: B027 - most streams hold nothing else
        """Let go of what the stream holds beside memory, such as processes that load for it.

        It stays where it is: :meth:`next` opens again what it needs.
        """
