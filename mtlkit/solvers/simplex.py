"""Projection on the simplex, as MoCo and MoDo need it after each step of their weights.

>>> project_to_simplex([0.9, 0.5, -1.0])
array([0.7, 0.3, 0. ])
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtlkit.solvers.finite import NotFinite
from mtlkit.solvers.gramian import Array

__all__ = ["project_to_simplex"]


def project_to_simplex(v: Any) -> Array:
    """Return the point of the simplex that is nearest to v: max(v - theta, 0) with theta such that it sums to 1.

    Exact up to rounding, by sorting (Held, Wolfe, Crowder, Math. Programming 1974), in O(T log T). Entries are first
    taken relative to the largest, and those that lie more than 1 below it, which get no weight, are cut off there: so
    nothing overflows, and 1 does not vanish beside 1e30.

    Args:
        v: Finite numbers of any size ``[T]``, T >= 1.

    Returns:
        The projection ``[T]``. Equal entries get equal weights.

    Raises:
        ValueError: If v is no vector, is empty, or is not finite.
    """
    v = np.asarray(v, dtype=np.float64)
    if v.ndim != 1 or not v.size:
        raise ValueError(f"what is projected is a vector, [T] with T >= 1; received an array of shape {v.shape}")
    if not np.isfinite(v).all():
        raise NotFinite("what is projected holds NaN or infinite values; it must be finite")
    with np.errstate(over="ignore"):
        below = np.maximum(v - v.max(), -1.0)  # [T] in [-1, 0]
    falling = -np.sort(-below)
    excess = (np.cumsum(falling) - 1.0) / np.arange(1, v.size + 1)
    theta = excess[np.count_nonzero(falling > excess) - 1]
    weights: Array = np.maximum(below - theta, 0.0)
    weights /= weights.sum()
    return weights
