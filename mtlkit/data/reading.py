"""Reading: rows into columns, one by one, in whichever process it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mtlkit.data.cursor import Cursor
from mtlkit.data.generators import seed_generators
from mtlkit.data.map_split import MapSplit
from mtlkit.data.row_format import Misfit, RowFailure, RowFormat, reason
from mtlkit.data.splits import derived_seed

__all__ = ["read_from", "read_rows", "row_seeds"]


def read_rows(
    split: MapSplit,
    rows: Sequence[int],
    row_format: RowFormat,
    columns: Sequence[Tensor],
    *,
    seeds: Sequence[int] = (),
    watch: Callable[[int], None] = lambda _: None,
) -> None:
    """Put rows into columns, in this order.

    Args:
        split: Where they are from.
        rows: Their indices in it.
        row_format: What each has to be.
        columns: Where they go, each ``[len(rows), *]`` or longer.
        seeds: What the global generators are seeded by for each; none where they are left alone.
        watch: Is told the number of each row in its data set before it is read.

    Raises:
        RowFailure: If a row cannot be read, or is not what it has to be.
    """
    for place, index in enumerate(rows):
        number = split.number(index)
        watch(number)
        if seeds:
            seed_generators(seeds[place])
        try:
            row_format.put(columns, place, split[index])
        except Exception as error:
            raise RowFailure(number, reason(error)) from error


def read_from(cursor: Cursor, count: int, row_format: RowFormat, columns: Sequence[Tensor]) -> int:
    """Put the next rows of a stream into columns, and return how many there were: fewer at the end of the only pass.

    Raises:
        RowFailure: If a row cannot be read, or is not what it has to be.
    """
    for place in range(count):
        drawn = cursor.draw()
        if drawn is None:
            return place
        number, item = drawn
        try:
            row_format.put(columns, place, item)
        except Misfit as error:
            raise RowFailure(number, reason(error)) from error
    return count


def row_seeds(seed: int, rows: Sequence[int], drawn: int | None) -> list[int]:
    """Return what seeds the generators for each row: how many were drawn before it, or without that, which it is."""
    if drawn is None:
        return [derived_seed(seed, "row", row) for row in rows]
    return [derived_seed(seed, "draw", drawn + place) for place in range(len(rows))]
