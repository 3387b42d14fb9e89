"""What every solver does first: check its arguments, and take norms and angles apart."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mtlkit.solvers.finite import NotFinite

__all__ = ["RIDGE", "Array", "angles", "checked", "norms_of", "vectors"]

Array: TypeAlias = NDArray[np.float64]

# Added to the unit diagonal of the cosines, so that duplicated or dependent gradients leave no system singular. It is
# some hundred times what rounding does to a cosine, and far below what any tolerance here asks for.
RIDGE = 1e-13

# The least norm that is not taken for 0, also relative to the largest: beyond it, squares and ratios leave float64.
_LEAST = 1e-150

_FEW = 16


def checked(gramian: Any) -> Array:
    """Return a Gram matrix as a symmetric array ``[T, T]``.

    Raises:
        ValueError: If it is not square, is empty, or holds NaN or infinite values.
    """
    matrix = np.asarray(gramian, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:  # noqa: PLR2004
        raise ValueError(f"a Gram matrix is square, [T, T] with T >= 1; received an array of shape {matrix.shape}")
    # Few numbers are looked through one by one in a fraction of the time.
    if not (all(map(math.isfinite, matrix.flat)) if matrix.size <= _FEW else np.isfinite(matrix).all()):
        raise NotFinite("the Gram matrix holds NaN or infinite values; it must be finite")
    return 0.5 * matrix + 0.5 * matrix.T


def vectors(values: Any, *, size: int, name: str, rows: int | None = None) -> Array:
    """Return rows of T numbers as an array ``[R, T]``.

    Args:
        values: The rows ``[R, T]``; with rows=1, the one row ``[T]``.
        size: T.
        name: What the error calls them.
        rows: 1 for one row; None for any number.

    Raises:
        ValueError: If the shape is another, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != (1 if rows else 2) or array.shape[-1] != size:
        wanted = f"[{size}]" if rows else f"[R, {size}]"
        raise ValueError(f"{name} must have the shape {wanted}, to go with the Gram matrix; received {array.shape}")
    if not np.isfinite(array).all():
        raise NotFinite(f"{name} holds NaN or infinite values; it must be finite")
    return array[None] if rows else array


def norms_of(matrix: Array) -> Array:
    """Return the norms of the gradients ``[T]``; exactly 0 for those below 1e-150, absolute or of the largest."""
    norms = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    norms *= norms >= _LEAST * max(1.0, float(norms.max()))
    return norms


def angles(matrix: Array, norms: Array) -> Array:
    """Return the cosines between the gradients ``[T, T]``: ones on the diagonal, zeros all along a zero gradient."""
    scale = (norms > 0) / np.maximum(norms, _LEAST)
    cosines = matrix * scale[:, None]  # one side at a time: the product of two scales can leave float64's range
    cosines *= scale
    np.minimum(cosines, 1.0, out=cosines)
    np.maximum(cosines, -1.0, out=cosines)
    cosines.flat[:: norms.size + 1] = norms > 0
    return cosines
