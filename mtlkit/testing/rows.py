"""Rows as bytes: what two loads of the same data have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mtlkit.task import Split
from mtlkit.tensors import named

__all__ = ["as_bytes", "digests"]


def as_bytes(column: Tensor) -> np.ndarray:
    """Return a column ``[N, *]`` of any dtype as bytes ``[N, bytes of a row]``."""
    rows = len(column)
    if not column.numel():
        return np.empty((rows, 0), dtype=np.uint8)
    flat = column.detach().cpu().reshape(rows, -1).contiguous()
    given: np.ndarray = flat.view(torch.uint8).numpy()
    return given


def digests(splits: Mapping[str, Split]) -> dict[str, str]:
    """Return the SHA-256 of each column of each split, by what it is: ``the inputs of 'train'``."""
    found = {}
    for name, split in splits.items():
        columns = {f"the inputs {part!r}" if part else "the inputs": c for part, c in named(split.inputs).items()}
        columns |= {f"the targets {t!r}": column for t, column in split.targets.items()}
        for what, column in columns.items():
            digest = hashlib.sha256(f"{column.dtype} {tuple(column.shape)}".encode())
            digest.update(as_bytes(column).tobytes())
            found[f"{what} of {name!r}"] = digest.hexdigest()
    return found
