"""Cursor: a place in a stream, from which its rows are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mtlkit.data.row_format import Item, RowFailure, item_of, reason
from mtlkit.data.splits import derived_seed
from mtlkit.data.stream_split import StreamSplit

__all__ = ["Cursor"]

CHUNK = 1024  # rows of which it is worked out at a time whether they are in the split


class Cursor:
    """A place in a stream.

    In training, rows are drawn without end, pass after pass; those of ``split.shuffle`` rows at a time in an order that
    depends on the seed, the number of the pass, and the number of the first row of them. So the place is a pass, the
    number of a row, and how many of those after it were drawn.

    Args:
        split: The stream.
        seed: Seeds the order in training; None for one pass, in the order in which the rows come.
        watch: Is told the number of each row before it is asked for.
    """

    def __init__(self, split: StreamSplit, *, seed: int | None, watch: Callable[[int], None] = lambda _: None) -> None:
        self.split = split
        self.seed = seed
        self._watch = watch
        self._size = 1 if seed is None else split.shuffle
        self._restart(0, 0)

    def state(self) -> dict[str, int]:
        """Return the place."""
        if self._drawn == len(self._block):
            return {"pass": self._pass, "row": self._next, "drawn": 0}
        return {"pass": self._pass, "row": self._start, "drawn": self._drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a place."""
        self._restart(int(state["pass"]), int(state["row"]))
        drawn = int(state["drawn"])
        if drawn:
            self._fill()
            self._drawn = drawn

    def draw(self) -> tuple[int, Item] | None:
        """Return the number of the next row, and the row; None at the end of the only pass.

        Raises:
            RowFailure: If a row cannot be read, or a pass has none.
        """
        if self._drawn == len(self._block):
            self._fill()
        if not self._block:
            return None
        drawn = self._block[self._drawn]
        self._drawn += 1
        return drawn

    # --- parts ---

    def _restart(self, number: int, row: int) -> None:
        self._pass, self._start, self._next = number, row, row
        self._block: list[tuple[int, Item]] = []
        self._drawn = 0
        self._rows: Iterator[Any] | None = None
        self._held = np.empty(0, dtype=bool)
        self._held_from = 0

    def _fill(self) -> None:
        """Read the rows that come next, as many as are shuffled at a time."""
        self._start, self._drawn, self._block = self._next, 0, []
        is_whole_pass = self._start == 0
        while len(self._block) < self._size:
            read = self._read()
            if read is not None:
                self._block.append(read)
                continue
            if self._block or self.seed is None:
                break
            if is_whole_pass:
                raise RowFailure(None, f"has no row, in a pass over {self._next} rows of its stream")
            self._restart(self._pass + 1, 0)
            is_whole_pass = True
        if self.seed is not None and self._size > 1:
            seed = derived_seed(self.seed, self._pass, self._start)
            order = torch.randperm(len(self._block), generator=torch.Generator().manual_seed(seed)).tolist()
            self._block = [self._block[place] for place in order]

    def _read(self) -> tuple[int, Item] | None:
        """Return the next row of the split, with its number; None where the pass ends."""
        length = self.split.length
        while length is None or self._next < length:
            number = self._next
            self._watch(number)
            try:
                if self._rows is None:
                    self._rows = iter(self.split.rows_from(number))
                given = next(self._rows)
                self._next += 1
                if self._is_held(number):
                    return number, item_of(given)
            except StopIteration:
                if length is not None:
                    what = f"ended after {number} rows, and its length is said to be {length}"
                    raise RowFailure(None, what) from None
                return None
            except Exception as error:
                raise RowFailure(number, reason(error)) from error
        return None

    def _is_held(self, number: int) -> bool:
        if not self._held_from <= number < self._held_from + len(self._held):
            self._held_from, self._held = number, self.split.holds(number, CHUNK)
        return bool(self._held[number - self._held_from])
