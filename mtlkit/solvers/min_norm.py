"""The point of least norm in the convex hull of the gradients: MGDA's weights.

>>> min_norm_point([[1.0, -1.0], [-1.0, 5.0]])
array([0.75, 0.25])
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtlkit.solvers.gramian import Array, checked, norms_of
from mtlkit.solvers.quadratic import LIMIT, minimise

__all__ = ["min_norm_point"]


def min_norm_point(gramian: Any, *, limit: int = LIMIT) -> Array:
    """Return the weights w of the simplex that minimise w'Mw = ||g_w||^2.

    MGDA (Desideri, Comptes Rendus Mathematique 350, 2012; Sener, Koltun, NeurIPS 2018, equation 3). There the problem
    is solved by Frank-Wolfe; here it is solved exactly, see :func:`~mtlkit.solvers.simplex_qp`. Two gradients have the
    closed form w_1 = clip((g_2 - g_1).g_2 / ||g_1 - g_2||^2, 0, 1).

    Tolerance: with the duality gap of the vertex i, w'Mw - (Mw)_i: none is above 1e-9 (|M|w)_i + 1e-9 w'|M|w, the sizes
    of the sums that it is the difference of. So small gradients are weighed right beside large ones.

    Cost: a few linear systems of at most T + 1 unknowns, or some T in the worst case; T = 139 takes less than a
    millisecond.

    Degenerate input: zero gradients are the point of least norm, and share the weight alike. Where several points are
    minimal, as with duplicated gradients or more ways than one to combine to 0, about the one with the least sum of
    (w_i ||g_i||)^2 is returned. Opposite gradients combine to 0.

    Args:
        gramian: M ``[T, T]``.
        limit: The most linear systems to solve; 0 for Frank-Wolfe alone, whose gap is 1e-10 max_i M_ii if it converges.

    Returns:
        The weights ``[T]``, no less than 0, of sum 1.

    Raises:
        ValueError: If the Gram matrix is not square or not finite.
    """
    matrix = checked(gramian)
    if len(matrix) > 2:  # noqa: PLR2004 - the closed form of two has its zeros right
        zero = norms_of(matrix) == 0
        if zero.any():
            shares: Array = zero / np.count_nonzero(zero)
            return shares
    return minimise(0.25 * matrix, limit=limit)  # the factor changes nothing, and keeps differences from overflowing
