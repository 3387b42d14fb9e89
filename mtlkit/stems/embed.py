"""The ``embed`` stem: learned vectors for categories, beside the numbers of a row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtlkit.layers import Positive
from mtlkit.specs import InputSpec
from mtlkit.stems.base import Stem
from mtlkit.tensors import Tensors, named

__all__ = ["Embed"]


class Embed(Stem):
    """Each entry that is a category becomes a learned vector; numbers stay; all of it is joined to one vector.

    The rows may be one vector of categories, or parts, some of them categories and some numbers. A category that no row
    of any split had when the network was built is refused.

    Args:
        inputs: What a row is.
        dimension: The length of the vector of a category; by default it grows with the number n of categories, as
            min(50, (n + 1) // 2).

    Raises:
        ValueError: If nothing in a row is a category.
    """

    def __init__(self, inputs: InputSpec, *, dimension: Positive | None = None) -> None:
        super().__init__()
        parts = inputs.parts or {"": inputs}
        if not any(part.categories for part in parts.values()):
            raise ValueError(
                f"embed takes rows in which something is a category (integers in a vector), and a row here, {inputs}, "
                "holds numbers"
            )
        self.names = list(parts)
        # Numbered: nn.ModuleDict refuses some names that a part may have.
        self.tables = nn.ModuleList(_tables(part.categories, dimension) for part in parts.values())
        widths = [_width(part, tables) for part, tables in zip(parts.values(), self.tables, strict=True)]
        self.rows = InputSpec((sum(widths),))

    def forward(self, inputs: Tensors) -> Tensor:
        parts = named(inputs)
        joined: list[Tensor] = []
        numbers = next(self.parameters()).dtype
        for name, tables in zip(self.names, self.tables, strict=True):
            part = parts[name]
            if isinstance(tables, nn.ModuleList) and len(tables):
                columns = part.reshape(len(part), -1).long().unbind(1)
                joined += [_looked_up(table, column, name) for table, column in zip(tables, columns, strict=True)]
            else:
                joined.append(part.reshape(len(part), -1).to(numbers))
        return torch.cat(joined, 1)


def _tables(categories: Sequence[int], dimension: int | None) -> nn.ModuleList:
    return nn.ModuleList(nn.Embedding(n, dimension or min(50, (n + 1) // 2)) for n in categories)


def _width(part: InputSpec, tables: nn.Module) -> int:
    if not part.categories:
        return part.size
    return sum(table.embedding_dim for table in tables.children() if isinstance(table, nn.Embedding))


def _looked_up(table: nn.Module, column: Tensor, name: str) -> Tensor:
    known = table.num_embeddings if isinstance(table, nn.Embedding) else 0
    if column.numel() and not (int(column.min()) >= 0 and int(column.max()) < known):
        where = f" of '{name}'" if name else ""
        raise ValueError(
            f"a column{where} holds categories from {int(column.min())} to {int(column.max())}, and 0 to {known - 1} "
            "are known"
        )
    found: Tensor = table(column)
    return found
