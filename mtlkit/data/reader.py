"""Reader: one split of a source as a run reads it, where its rows are not in memory on the run's device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mtlkit.specs import InputSpec
from mtlkit.task import Split
from mtlkit.tensors import joined

__all__ = ["Reader", "batches", "evenly", "row_count", "some_rows", "together"]


class Reader(ABC):
    """One split of a source: its rows are read when they are asked for, and come on the run's device.

    Attributes:
        row: What a row of inputs is.
        rows: How many rows there are; None where it is not known.
        processes: How many processes read them ahead; the splits of a source share them.
    """

    row: InputSpec
    rows: int | None
    processes: int = 0

    @abstractmethod
    def batches(self, size: int) -> Iterator[Split]:
        """Yield every row once, in order, in batches of this size; the last may be smaller.

        Raises:
            DataError: If rows cannot be read.
        """

    @abstractmethod
    def some(self, count: int) -> Split:
        """Return so many rows, evenly spaced ones, or those that come first of a stream; all where there are fewer.

        Raises:
            DataError: If they cannot be read.
        """

    def close(self) -> None:  # noqa: B027 - most readers hold nothing else
        """Let go of what is held beside memory, such as processes; it is opened again when it is needed."""


def batches(rows: Split | Reader, size: int) -> Iterator[Split]:
    """Yield every row of a split once, in order, in batches of this size; the last may be smaller."""
    if isinstance(rows, Reader):
        yield from rows.batches(size)
        return
    for chosen in torch.arange(len(rows), device=rows.device).split(size):
        yield rows.take(chosen)


def some_rows(rows: Split | Reader, count: int) -> Split:
    """Return so many rows of a split, as :meth:`Reader.some` does; of what is in memory, all of them."""
    return rows.some(count) if isinstance(rows, Reader) else rows


def evenly(rows: int, count: int) -> Tensor:
    """Return the indices of so many rows of a number of them, evenly spaced; of all where there are fewer."""
    return torch.arange(rows) if rows <= count else torch.linspace(0, rows - 1, count, dtype=torch.float64).long()


def row_count(rows: Split | Reader) -> int | None:
    """Return how many rows a split has; None where it is not known."""
    return rows.rows if isinstance(rows, Reader) else len(rows)


def together(parts: Sequence[Split]) -> Split:
    """Return the rows of several splits, one after another."""
    if len(parts) == 1:
        return parts[0]
    targets = {name: torch.cat([part.targets[name] for part in parts]) for name in parts[0].targets}
    return Split(joined([part.inputs for part in parts]), targets)
