"""Plain numbers, in which a few of anything are worked out in a fraction of the time of tensors: from and to these.

>>> tensor_of([0.5, 2.0], torch.zeros(2).double()).tolist()
[0.5, 2.0]
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mtlkit.solvers.few import FEW

__all__ = ["diagonal_of", "tensor_of", "write"]


def tensor_of(values: Iterable[float], like: Tensor) -> Tensor:
    """Return some numbers, one at least, as a tensor of their own, of the dtype and on the device of another."""
    tensor = _fresh(values)
    return tensor if like.is_cpu and like.dtype is torch.float64 else tensor.to(like)


def diagonal_of(matrix: Tensor) -> list[float]:
    """Return the diagonal of a square matrix in plain numbers."""
    if len(matrix) > FEW:
        diagonal: list[float] = matrix.diagonal().tolist()
        return diagonal
    return [row[place] for place, row in enumerate(matrix.tolist())]  # one call of torch in place of two


def write(values: Sequence[float], into: Tensor) -> None:
    """Write numbers, one at least, over those that a tensor holds."""
    if into.is_cpu and into.dtype is torch.float64:  # NumPy does not know all of torch's dtypes
        into.numpy()[...] = values  # its own memory: copy_ takes twice as long
    else:
        into.copy_(_fresh(values))


def _fresh(values: Iterable[float]) -> Tensor:
    # From an array's memory: within a training step, torch.tensor takes three times as long for the same.
    return torch.frombuffer(array("d", values), dtype=torch.float64)
