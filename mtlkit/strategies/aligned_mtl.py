"""The ``aligned-mtl`` strategy: the gradients' principal components are made equal in size.

>>> import torch
>>> AlignedMTL(2).weights(torch.ones(2).double(), torch.diag(torch.tensor([1.0, 4.0]).double())).weights.tolist()
[0.5, 0.25]
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from torch import Tensor

from mtlkit.solvers.few import Rows, dot, eigen_of, norms_of
from mtlkit.strategies.base import Needs, Over
from mtlkit.strategies.preference import PreferringStrategy

__all__ = ["AlignedMTL"]

_ROUNDING = 1e-6  # of a product of two gradients, of their norms
_EPS = float(np.finfo(np.float64).eps)


class AlignedMTL(PreferringStrategy):
    """Independent component alignment (Senushkin, Patakin, Kuznetsov, Konushin, CVPR 2023, algorithm 1).

    With M = V diag(l) V', and l_min the least eigenvalue that is not 0,

        w = sqrt(l_min) V diag(l)^(-1/2) V' p

    over the eigenvalues that are not 0: the linear system of the gradients then has condition number 1. A weight may be
    negative, so the heads get their own gradients.

    Args:
        n_tasks: The number of tasks.
        preference: p, one positive number for each task; 1/K for all by default.

    Raises:
        ValueError: If there is not one preference for each task.
    """

    needs: ClassVar[Needs] = Needs.GRAMIAN
    over: ClassVar[Over | None] = Over.PARAMETERS

    plain_heads: ClassVar[bool] = True

    def prefer(self, gramian: Tensor, preference: list[float]) -> Tensor:
        return self.solved(
            lambda m: _aligned(m, np.array(preference)), gramian, few=lambda rows: _aligned_of_few(rows, preference)
        )


def _aligned(gramian: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """Return w ``[K]``."""
    values, vectors = np.linalg.eigh(gramian)
    # What rounding may leave of an eigenvalue of 0: of float64 where the norms differ much, and of the gradients
    # themselves, which are in float32 as a rule. The least eigenvalue sets the scale of all.
    info = np.finfo(values.dtype)
    rounding = len(values) * info.eps * max(values[-1], 0.0)  # the last is the largest
    own = _ROUNDING * (np.abs(vectors.T) @ np.sqrt(np.maximum(gramian.diagonal(), 0.0))) ** 2
    kept = values > np.maximum(rounding, own)
    if not kept.any():
        return preference  # all gradients are 0
    inverse = np.where(kept, 1 / np.sqrt(np.maximum(values, info.tiny)), 0.0)
    aligned: np.ndarray = np.sqrt(values[kept][0]) * (vectors @ (inverse * (vectors.T @ preference)))
    return aligned


def _aligned_of_few(gramian: Rows, preference: list[float]) -> list[float] | None:
    """Return it in plain numbers, where no gradient is 0."""
    norms = norms_of(gramian)
    if norms is None:
        return None
    values, vectors = eigen_of(gramian)
    rounding = len(values) * _EPS * values[-1]
    least, aligned = 0.0, [0.0] * len(values)
    for value, vector in zip(values, vectors, strict=True):
        if value > max(rounding, _ROUNDING * dot(map(abs, vector), norms) ** 2):
            least = least or value  # they rise
            factor = dot(vector, preference) * math.sqrt(least / value)
            aligned = [total + factor * each for total, each in zip(aligned, vector, strict=True)]
    return aligned if least else None
