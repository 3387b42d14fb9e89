"""CAGrad's weights: the combination of gradients that a step near the mean gradient serves worst.

>>> cagrad_weights([[1.0, 0.0], [0.0, 4.0]], 0.5)
array([1., 0.])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mtlkit.solvers.gramian import Array, checked, norms_of
from mtlkit.solvers.quadratic import OwnUnits, minimise
from mtlkit.solvers.two import cagrad_of_two

__all__ = ["cagrad_weights"]

_LIMIT = 50  # quadratic programs; a few is what it takes
_TOLERANCE = 1e-12
_NOTHING = 1e-20  # of the largest gradient's squared norm: what a combination has that is 0
_LARGEST = 1e50  # c beyond this is no different
_EPS = float(np.finfo(np.float64).eps)


def cagrad_weights(gramian: Any, c: float) -> Array:
    """Return the weights w of the simplex that minimise g_w . g_0 + c ||g_0|| ||g_w||, g_0 the mean gradient.

    CAGrad (Liu, Liu, Jin, Stone, Liu, NeurIPS 2021, algorithm 1); its direction is then
    g_0 + c ||g_0|| g_w / ||g_w||.

    Method: the minimiser also minimises 0.5 ||g_w||^2 + t g_w . g_0, a quadratic program (``quadratic``), for the one t
    at which ||g_w|| = t c ||g_0||. On a given support ||g_w||^2 = A + D t^2, so each program gives the next t; the
    supports are few, and the last step is exact. T = 2 is a closed form.

    Tolerance: with r = c ||g_0|| and h = M(1/T) + r Mw / ||g_w||, the duality gap w'h - min(h) is at most
    1e-8 (max_i |g_i . g_0| + r) unless g_w is 0 to the precision that a Gram matrix has, some 1e-7 of the largest norm.
    There h is unknown; the objective is then within 1e-7 (||g_0|| + r) max_i ||g_i|| of the least.

    Cost: two or three quadratic programs; T = 139 takes some milliseconds.

    Degenerate input: where g_0 = 0 the objective is 0 everywhere, and the centre is returned. c = 0 leaves the linear
    term, whose least entries share alike. Where the gradients combine to 0 and nothing is less, g_w is about 0: whoever
    divides by its norm must see to that.

    Args:
        gramian: M ``[T, T]``.
        c: How far the direction may be from g_0, relative to its norm; at least 0.

    Returns:
        The weights ``[T]``, no less than 0, of sum 1.

    Raises:
        ValueError: If the Gram matrix is not square or not finite, or c is negative or not finite.
    """
    matrix = checked(gramian)
    if not 0 <= c < math.inf:
        raise ValueError(f"c is a finite number, no less than 0; received {c!r}")
    size = len(matrix)
    centre = np.full(size, 1 / size)
    top = float(matrix.diagonal().max())
    if size == 1 or top <= 0:
        return centre
    matrix = matrix / top
    slope = matrix @ centre  # [T] g_i . g_0
    square = float(slope @ centre)  # ||g_0||^2
    if square <= size * _EPS:
        return centre
    reach = min(c, _LARGEST) * math.sqrt(square)
    if size == 2:  # noqa: PLR2004
        (a, b), (_, d) = matrix.tolist()
        return np.array(cagrad_of_two(a, b, d, slope.item(0) - slope.item(1), reach))
    if reach * reach <= 0:
        return minimise(np.zeros_like(matrix), slope)
    return _of_many(matrix, slope, reach)


def _of_many(matrix: Array, slope: Array, reach: float) -> Array:
    """Find the x = 1 / t^2 at which x ||g_w||^2 = reach^2, w the minimiser of 0.5 w'Mw + t slope'w.

    x ||g_w||^2 rises with x and is concave, linear while the support stays; so Newton's method, between bounds.
    """
    norms, own = norms_of(matrix), OwnUnits.of(matrix)
    goal = reach * reach
    low, high = 0.5 * goal, math.inf  # no norm is above 1, so x is no less than the goal
    x = goal / float(slope.mean())
    weights = np.ones_like(slope)
    for _ in range(_LIMIT):
        tilt = slope / math.sqrt(x)
        weights = minimise(matrix, tilt, own=own, guess=weights)
        square = float(weights @ matrix @ weights)
        if square <= max(_NOTHING, 4 * _EPS * float(weights @ norms) ** 2):
            break
        if abs(square * x - goal) <= _TOLERANCE * goal:
            break
        if square * x < goal:
            low = x
        else:
            high = x
        bend = _bend(own, tilt, weights)  # D t^2
        level = square - bend  # A
        x = (goal - bend * x) / level if level > 0 else math.inf
        if not low < x < high:
            x = math.sqrt(low) * math.sqrt(high) if high < math.inf else 16 * low
    return weights


def _bend(own: OwnUnits, tilt: Array, weights: Array) -> float:
    """Return what the linear term adds to the least ||g_w||^2 on the affine hull of the weights' support."""
    rows = np.append(weights > 0, [True]).nonzero()[0]
    right = np.append(tilt * own.units, 0.0)[rows]
    try:
        solution = np.linalg.solve(own.bordered[rows[:, None], rows], right)
    except np.linalg.LinAlgError:
        return 0.0
    return max(0.0, float(right @ solution) / own.least / own.least)
