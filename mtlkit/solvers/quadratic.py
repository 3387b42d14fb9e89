"""Quadratic programs over the simplex: SDMGrad's, and what MGDA's and CAGrad's come down to.

>>> simplex_qp([[1.0, 0.0], [0.0, 3.0]], [0.0, 0.0])
array([0.75, 0.25])
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mtlkit.solvers.active_set import TOLERANCE, Problem, active_set
from mtlkit.solvers.frank_wolfe import pairwise_frank_wolfe
from mtlkit.solvers.gramian import RIDGE, Array, angles, checked, norms_of, vectors
from mtlkit.solvers.two import simplex_of_two

__all__ = ["LIMIT", "OwnUnits", "minimise", "simplex_qp"]

LIMIT = 2000  # linear systems, ten for each of 200 tasks; a few is what it takes
_FRANK_WOLFE_LIMIT = 5000
_LARGEST = 1e200  # a linear term beyond this, in units of the quadratic one, decides alone


def simplex_qp(gramian: Any, linear: Any, *, limit: int = LIMIT) -> Array:
    """Return the weights w of the simplex that minimise 0.5 w'Mw + linear'w.

    SDMGrad (Xiao, Ban, Ji, NeurIPS 2023) has linear = lambda M u with u = 1/T: up to a constant, that is
    0.5 ||g_w + lambda g_0||^2.

    Method: the KKT conditions by an active-set method (``active_set``), in units in which every gradient has norm 1;
    should that fail, in units in which the largest has; should that fail too, or take more than ``limit`` linear
    systems, pairwise Frank-Wolfe (``frank_wolfe``) from the centre. T = 1 and T = 2 are closed forms.

    Tolerance: with h = Mw + linear, the duality gap w'h - min(h) is at most 1e-9 (max_i M_ii + max(linear) -
    min(linear)); where norms lie within some orders of magnitude of one another it is far below.

    Cost: a few linear systems of at most T + 1 unknowns, or some T in the worst case.

    Degenerate input: where several points are minimal, about the one with the least sum of (w_i ||g_i||)^2 is returned,
    so duplicated gradients share alike. M = 0 leaves the linear term, whose least entries share alike. Both 0 leave the
    centre. The weights are in the simplex for any finite input; where M is not positive semidefinite they are that, and
    no more is promised.

    Args:
        gramian: M ``[T, T]``.
        linear: ``[T]``.
        limit: The most linear systems to solve; 0 for Frank-Wolfe alone.

    Returns:
        The weights ``[T]``, no less than 0, of sum 1.

    Raises:
        ValueError: If the arrays do not fit one another, or are not finite.
    """
    matrix = checked(gramian)
    (linear,) = vectors(linear, size=len(matrix), name="linear", rows=1)
    # A common factor changes nothing; this one keeps differences from overflowing.
    return minimise(0.25 * matrix, 0.25 * linear, limit=limit)


class OwnUnits(NamedTuple):
    """M in units in which every gradient has norm 1: w = u b, and 0.5 w'Mw is least^2 times 0.5 b'Cb, C the cosines.

    A zero gradient is taken for one of the least norm that has no curvature.

    Attributes:
        bordered: C, bordered by u: the KKT matrix of programs over b with u'b = 1 ``[T + 1, T + 1]``.
        units: u, the least norm over each ``[T]``.
        least: The least norm that is not 0; infinite where all are.
    """

    bordered: Array
    units: Array
    least: float

    @classmethod
    def of(cls, matrix: Array) -> OwnUnits:
        """Convert M ``[T, T]``."""
        norms = norms_of(matrix)
        least = float(norms.min()) or float(norms[norms > 0].min(initial=np.inf))
        units = least / np.maximum(norms, least) if least < np.inf else np.ones_like(norms)
        return cls(_bordered(angles(matrix, norms), units), units, least)


def minimise(
    matrix: Array,
    linear: Array | None = None,
    *,
    own: OwnUnits | None = None,
    guess: Array | None = None,
    limit: int = LIMIT,
) -> Array:
    """Do what :func:`simplex_qp` does, for arguments that were checked and are no larger than 1e307.

    Args:
        matrix: M ``[T, T]``, symmetric.
        linear: ``[T]``; None for zeros.
        own: M in its own units, where the caller has it.
        guess: Weights whose support may be that of the solution ``[T]``; None for a support of all.
        limit: The most linear systems to solve.
    """
    size = len(matrix)
    if size == 1:
        return np.ones(1)
    linear = np.zeros(size) if linear is None else linear - linear.min()  # a constant changes nothing
    if size == 2:  # noqa: PLR2004
        (a, b), (_, c) = matrix.tolist()
        return np.array(simplex_of_two(a, b, c, linear.item(1) - linear.item(0)))
    diagonal, steepest = matrix.diagonal(), float(linear.max())
    top = max(float(diagonal.max()), steepest)
    if top <= 0:
        return np.full(size, 1 / size)
    support = np.ones(size + 1, dtype=bool)
    if guess is not None:
        np.greater(guess, 0, out=support[:size])
    best = int((0.5 * diagonal + linear).argmin())
    for problem, units in _problems(matrix, linear, own or OwnUnits.of(matrix), steepest, top):
        result = active_set(problem, support, partial(_vertex, best, units), limit=limit)
        if result.found:
            weights: Array = result.z[:size] * units
            weights /= weights.sum()
            return weights
        limit -= result.systems
    centre = np.full(size, 1 / size)
    return pairwise_frank_wolfe(matrix / top, linear / top, centre, tolerance=TOLERANCE, limit=_FRANK_WOLFE_LIMIT)


def _problems(
    matrix: Array, linear: Array, own: OwnUnits, steepest: float, top: float
) -> Iterator[tuple[Problem, Array]]:
    """Yield the KKT conditions over b, and minus the multiplier of u'b = 1, in two systems of units; and u ``[T]``.

    In the first, small gradients are not lost beside large ones. In the second nothing is larger than 1.
    """
    size = len(matrix)
    if own.least < np.inf:
        right = linear * own.units
        if steepest:
            right *= -min(steepest / own.least / own.least, _LARGEST) / steepest
        yield Problem(own.bordered, np.append(right, 1.0), size), own.units
    units = np.ones(size)
    yield Problem(_bordered(matrix / top, units), np.append(linear / -top, 1.0), size), units


def _vertex(best: int, units: Array) -> Array:
    z = np.zeros(units.size + 1)
    z[best] = 1 / units[best]
    return z


def _bordered(matrix: Array, units: Array) -> Array:
    size = units.size
    bordered = np.zeros((size + 1, size + 1))
    bordered[:size, :size] = matrix
    bordered.flat[:: size + 2] += RIDGE
    bordered[size, :size] = bordered[:size, size] = units
    bordered[size, size] = 0.0
    return bordered
