"""Rows as bytes: what two loads of the same data have in common; and rows in columns, however they are given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mtlkit.data.delivery import Delivery
from mtlkit.data.fetched import Fetched
from mtlkit.data.flow import Flow
from mtlkit.data.map_split import MapSplit
from mtlkit.data.splits import Given, format_of
from mtlkit.task import Split
from mtlkit.tensors import named

__all__ = ["as_bytes", "digests", "in_columns"]

MOST_READ = 256  # rows of a split that are read where they are not in columns


def in_columns(splits: Mapping[str, Given]) -> dict[str, Split]:
    """Return splits in columns: all rows of what is given so, and some of what is not.

    Raises:
        DataError: If a row cannot be read, or is not as the first of its split.
    """
    return {name: _in_columns(name, split) for name, split in splits.items()}


def _in_columns(name: str, split: Given) -> Split:
    if isinstance(split, Split):
        return split
    row_format, delivery = format_of(split, name, torch.float32), Delivery(torch.device("cpu"), torch.float32)
    source = "The rows of its source"
    if isinstance(split, MapSplit):
        return Fetched(name, split, row_format, delivery, seed=0, source=source).some(MOST_READ)
    return Flow(name, split, row_format, delivery, seed=0, source=source).some(MOST_READ)


def as_bytes(column: Tensor) -> np.ndarray:
    """Return a column ``[N, *]`` of any dtype as bytes ``[N, bytes of a row]``."""
    rows = len(column)
    if not column.numel():
        return np.empty((rows, 0), dtype=np.uint8)
    flat = column.detach().cpu().reshape(rows, -1).contiguous()
    given: np.ndarray = flat.view(torch.uint8).numpy()
    return given


def digests(splits: Mapping[str, Given]) -> dict[str, str]:
    """Return the SHA-256 of each column of each split, by what it is: ``the inputs of 'train'``."""
    found = {}
    for name, split in in_columns(splits).items():
        columns = {f"the inputs {part!r}" if part else "the inputs": c for part, c in named(split.inputs).items()}
        columns |= {f"the targets {t!r}": column for t, column in split.targets.items()}
        for what, column in columns.items():
            digest = hashlib.sha256(f"{column.dtype} {tuple(column.shape)}".encode())
            digest.update(as_bytes(column).tobytes())
            found[f"{what} of {name!r}"] = digest.hexdigest()
    return found
