"""StreamSplit: rows that come one after another."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mtlkit.data.row_format import Item, item_of, reason
from mtlkit.errors import DataError
from mtlkit.specs import InputSpec

__all__ = ["StreamSplit"]

CHUNK = 1 << 16  # rows whose places are worked out at a time


@dataclass(frozen=True)
class Share:
    """A part of the rows of a stream, chosen by a seeded hash of their numbers.

    Attributes:
        low: Where it begins in [0, 1).
        high: Where it ends.
        seed: Another seed chooses other rows.
    """

    low: float
    high: float
    seed: int

    def holds(self, start: int, count: int) -> np.ndarray:
        """Return of `count` rows from number `start` on whether each is in it, as booleans ``[count]``.

        The hash of row n is the n-th output of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
        Generators, OOPSLA 2014), begun at the seed.
        """
        gamma, first, second = (
            np.uint64(each) for each in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
        )
        numbers = np.arange(start + 1, start + 1 + count, dtype=np.uint64)
        with np.errstate(over="ignore"):  # the arithmetic is modulo 2**64
            z = np.uint64(self.seed) + numbers * gamma
            z = (z ^ (z >> np.uint64(30))) * first
            z = (z ^ (z >> np.uint64(27))) * second
            z ^= z >> np.uint64(31)
        place = (z >> np.uint64(11)) * 2.0**-53  # [count], uniform in [0, 1)
        chosen: np.ndarray = (place >= self.low) & (place < self.high)
        return chosen


class StreamSplit:
    """Rows that come one after another, such as the lines of a file that is too long to be indexed.

    They are never held in memory, and drawn in the order in which they come; one worker process reads ahead.

    Args:
        rows_from: Takes the number of a row, counted from 0, and returns an iterator over the rows from that one on.
            A row is a pair as in :class:`MapSplit`. It is called with 0 for each pass, and with another number where a
            run goes on from a checkpoint: the quicker it gets there, the better.
        length: How many rows a pass has. None where that is not known: it then ends where the iterator does. Of rows
            that never end, say how many make a pass.
        shuffle: How many rows are held at a time in training, to be drawn from in random order; 1 for the order in
            which they come.
        row: What a row of inputs is, as in :class:`MapSplit`.

    Raises:
        DataError: If ``rows_from`` is no function, or a number is less than 1.
    """

    def __init__(
        self,
        rows_from: Callable[[int], Iterable[Any]],
        *,
        length: int | None = None,
        shuffle: int = 1,
        row: InputSpec | None = None,
    ) -> None:
        if not callable(rows_from):
            raise DataError(
                "A StreamSplit takes a function that is given the number of a row and returns an iterator over the "
                f"rows from there on; received {type(rows_from).__name__}."
            )
        for name, number in {"length": length, "shuffle": shuffle}.items():
            if number is not None and number < 1:
                raise DataError(f"The {name} of a StreamSplit is 1 row or more; received {number}.")
        self.rows_from = rows_from
        self.length = length
        self.shuffle = shuffle
        self.row = row
        self.carved_from: str | None = None  # the split of the source that rows were carved from, if they were
        self._share: Share | None = None

    def holds(self, start: int, count: int) -> np.ndarray:
        """Return of `count` rows from number `start` on whether each is in this split, as booleans ``[count]``."""
        return np.ones(count, dtype=bool) if self._share is None else self._share.holds(start, count)

    def share(self, low: float, high: float, *, seed: int) -> Self:
        """Return the rows whose hashes, uniform in [0, 1), are from `low` up to `high`; none is read."""
        shared = copy.copy(self)
        shared._share = Share(low, high, seed)  # noqa: SLF001 - of another of this class
        vars(shared).pop("rows", None)
        return shared

    @functools.cached_property
    def rows(self) -> int | None:
        """How many rows of this split a pass has; None where it is not known."""
        if self.length is None or self._share is None:
            return self.length
        chunks = range(0, self.length, CHUNK)
        return sum(int(self.holds(start, min(CHUNK, self.length - start)).sum()) for start in chunks)

    @functools.cached_property
    def first(self) -> Item:
        """The first row of the stream, in this split or not.

        Raises:
            DataError: If there is none, or it is no row.
        """
        try:
            return item_of(next(iter(self.rows_from(0))))
        except StopIteration:
            raise DataError("A split needs at least one row; its stream has none.") from None
        except Exception as error:
            raise DataError(f"Row 0 {reason(error)}.") from error
