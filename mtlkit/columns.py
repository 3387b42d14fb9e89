"""Columns: target columns by name, alike ones kept side by side in one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Columns", "side_by_side"]


class Columns(Mapping[str, Tensor]):
    """Columns ``[N, *]`` by name, of which those of a block are kept as one tensor ``[N, K, *]``.

    A batch of a hundred columns is then one index operation, and so is whatever is computed of all of them.

    Args:
        blocks: Tensors ``[N, K, *]`` by the names of their K columns.
        others: The columns that stand alone.
    """

    def __init__(self, blocks: Mapping[tuple[str, ...], Tensor], others: Mapping[str, Tensor]) -> None:
        self.blocks = blocks
        self.others = others

    def __getitem__(self, name: str) -> Tensor:
        if name in self.others:
            return self.others[name]
        for names, block in self.blocks.items():
            if name in names:
                return block[:, names.index(name)].contiguous()  # as a column that stands alone is
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys(name for names in (*self.blocks, self.others) for name in names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def take(self, rows: Tensor) -> Columns:
        """Return these rows of all columns, in this order."""
        return Columns(
            {names: block.index_select(0, rows) for names, block in self.blocks.items()},
            {name: column.index_select(0, rows) for name, column in self.others.items()},
        )


def side_by_side(columns: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """Return the columns of these names as one tensor ``[N, K, *]``, without a copy where they are kept so."""
    kept = columns.blocks.get(tuple(names)) if isinstance(columns, Columns) else None
    return torch.stack([columns[name] for name in names], 1) if kept is None else kept
