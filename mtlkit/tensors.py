"""One tensor, or several by name: what a batch of rows is, and what an encoder makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Tensors", "apply", "are_alike", "joined", "listed", "named", "parted", "rows_in", "told"]

Tensors = Tensor | Mapping[str, Tensor]
"""One tensor ``[B, *]``, or several by name, each ``[B, *]`` with the same number of rows."""

_cut: Callable[[Tensor, list[int]], Sequence[Tensor]] = torch.split_with_sizes_copy  # type: ignore[assignment]


def listed(tensors: Tensors) -> list[Tensor]:
    """Return each of the tensors."""
    return [tensors] if isinstance(tensors, Tensor) else list(tensors.values())


def named(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors by name; one that stands alone is called ''."""
    return {"": tensors} if isinstance(tensors, Tensor) else dict(tensors)


def joined(batches: Sequence[Tensors]) -> Tensors:
    """Return the rows of several batches, which hold tensors of the same names and shapes, one batch after another."""
    parts = [named(batch) for batch in batches]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return whole[""] if isinstance(batches[0], Tensor) else whole


def are_alike(batches: Sequence[Tensors]) -> bool:
    """Return whether all batches hold tensors of the same names, dtypes and shapes of a row, and could be joined."""
    kinds = {
        tuple((name, tensor.dtype, tensor.shape[1:]) for name, tensor in sorted(named(batch).items()))
        for batch in batches
    }
    return len(kinds) == 1


def parted(tensors: Tensors, sizes: Sequence[int]) -> list[Tensors]:
    """Return rows that were joined as batches of these sizes, in memory of their own: one may be written to."""
    if isinstance(tensors, Tensor):
        return list(_cut(tensors, list(sizes)))
    parts = {name: _cut(tensor, list(sizes)) for name, tensor in tensors.items()}
    return [{name: part[place] for name, part in parts.items()} for place in range(len(sizes))]


def apply(function: Callable[[Tensor], Tensor], tensors: Tensors) -> Tensors:
    """Return what a function makes of each of the tensors, by the same names."""
    if isinstance(tensors, Tensor):
        return function(tensors)
    return {name: function(tensor) for name, tensor in tensors.items()}


def rows_in(tensors: Tensors) -> int:
    """Return the number of rows."""
    return len(listed(tensors)[0])


def told(tensors: object) -> str:
    """Tell of shapes and dtypes, as an error message does."""
    if isinstance(tensors, Tensor):
        return f"shape {tuple(tensors.shape)} and dtype {tensors.dtype}"
    if isinstance(tensors, Mapping):
        return "; ".join(f"'{name}' of {told(tensor)}" for name, tensor in tensors.items())
    return f"type {type(tensors).__name__}"
