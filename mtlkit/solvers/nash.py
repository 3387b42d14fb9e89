"""Weights under which every task gains alike: Nash-MTL's, and FairGrad's for other notions of fairness.

>>> nash_weights([[4.0, 0.0], [0.0, 16.0]])
Solution(weights=array([0.5 , 0.25]), converged=True)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mtlkit.solvers.gramian import RIDGE, Array, angles, checked, norms_of
from mtlkit.solvers.two import LOST, nash_of_two

__all__ = ["Solution", "nash_weights"]

_LIMIT = 100  # Newton steps; five to ten is what it takes
_STEP = 1e-9  # the relative step after which nothing changes: the next one would be about its square
_SMALL = 0.2  # a step so small, times 1 + 1/alpha, is within reach of quadratic convergence
_BOUNDARY = 0.99  # the most of its value that a weight may lose in a step
_HALVINGS = 40
_EPS = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
_MAX = float(np.finfo(np.float64).max)


class Solution(NamedTuple):
    """What :func:`nash_weights` returns.

    Attributes:
        weights: Positive and finite ``[T]``.
        converged: Whether they solve the equations.
    """

    weights: Array
    converged: bool


def nash_weights(gramian: Any, alpha: float = 1.0, *, limit: int = _LIMIT) -> Solution:
    """Return the weights w > 0 with M w = w^(-1/alpha), entry by entry.

    alpha = 1 is Nash-MTL (Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik, Fetaya, ICML 2022, algorithm 1): each
    w_i (Mw)_i is 1, so ||G w||^2 = T. Other alpha are FairGrad (Ban, Ji, ICML 2024).

    Method: w minimises 0.5 w'Mw - sum_i phi(w_i), phi'(w) = w^(-1/alpha), which is convex: damped Newton, on
    the weights relative to M_ii^(-alpha/(1+alpha)), what each would be alone. T = 1 is a closed form, and so is T = 2
    with alpha = 1: w_i = 1 / (||g_i|| sqrt(1 + cos)).

    Tolerance: it has converged when a full step changes no weight by more than 1e-9 of itself; the error after that
    step is about the square. Weights and equations are compared on one scale, that of the weights.

    Cost: five to ten linear systems of T unknowns; T = 139 takes about a millisecond.

    Degenerate input: where gradients can be combined to 0 with positive weights (a Pareto stationary point), also to
    within 1e-6 of their norms, there is no solution, or none that rounding leaves: converged is False, and of the
    points on the way the one that solves the equations best is returned. The equation of a zero gradient has no
    solution either: converged is False, and that gradient gets the mean weight of the others, which are solved without
    it; where all are zero the weights are 1. Duplicated gradients get equal weights.

    Args:
        gramian: M ``[T, T]``.
        alpha: Above 0. FairGrad: towards 0 the sum of the gains counts, 1 is proportional fairness, large values
            raise the least gain.
        limit: The most Newton steps.

    Returns:
        The weights ``[T]``, positive and finite, and whether they converged.

    Raises:
        ValueError: If the Gram matrix is not square or not finite, or alpha is not a finite number above 0.
    """
    matrix = checked(gramian)
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is a finite number above 0; received {alpha!r}")
    power = 1 / alpha
    norms = norms_of(matrix)
    known = norms > 0
    if not known.any():
        return Solution(np.ones_like(norms), converged=False)
    if not known.all():
        inner = nash_weights(matrix[np.ix_(known, known)], alpha, limit=limit).weights
        weights = np.full_like(norms, inner.mean())
        weights[known] = inner
        return Solution(weights, converged=False)
    alone = norms ** (-2 / (1 + power))  # what each task's weight would be without the others
    if norms.size == 1:
        return Solution(alone, converged=True)
    if norms.size == 2 and power == 1:  # noqa: PLR2004
        of_two, converged = nash_of_two(matrix.item(1), norms.tolist())
        return Solution(np.array(of_two), converged)
    relative, converged = _newton(angles(matrix, norms), norms ** ((power - 1) / (power + 1)), power, limit)
    with np.errstate(over="ignore"):
        return Solution(np.minimum(alone * relative, _MAX), converged)


def _newton(cosines: Array, scale: Array, power: float, limit: int) -> tuple[Array, bool]:
    """Solve for x, the weights relative to what each would be alone.

    With b = k x, where k is the scale, it minimises 0.5 b'Cb - sum_i k_i^2 phi(x_i), phi' (x) = x^-p; that is to have
    b_i (Cb)_i = k_i^2 x_i^(1-p) for all i.
    """
    scale = scale / scale.max()
    squares = scale * scale
    total = max(float(scale @ cosines @ scale), 1e-6 * float(squares.sum()))
    x = np.full_like(scale, (float(squares.sum()) / total) ** (1 / (1 + power)))  # the least along the ray of equal x
    visited = [x]
    for _ in range(limit):
        b = scale * x
        share = squares * x ** (1 - power)
        if _EPS * float(b.sum()) ** 2 > LOST * float(share.sum()):
            break
        step = _newton_step(cosines, b, power * share, share - b * (cosines @ b))
        size = float(np.abs(step).max())
        if size <= _STEP:
            return x * (1 + step), True
        if not size < math.inf:
            break
        length = 1.0 if size * (1 + power) <= _SMALL else _length(cosines, b, share, step, power)
        x = x * (1 + length * step)
        visited.append(x)
    return _nearest(cosines, scale, np.stack(visited), power), False


def _nearest(cosines: Array, scale: Array, visited: Array, power: float) -> Array:
    """Return the first of the points ``[N, T]`` at which the equations are nearest to holding."""
    b = scale * visited
    share = scale * scale * visited ** (1 - power)
    product = b * (b @ cosines)
    errors = np.abs(share - product) / (share + np.abs(product) + _TINY)
    best: Array = visited[errors.sum(axis=1).argmin()]
    return best


def _newton_step(cosines: Array, b: Array, curvature: Array, rest: Array) -> Array:
    """Solve (BCB + diag(curvature)) step = rest, scaled to a unit diagonal."""
    unit = 1 / np.sqrt(b * b + curvature)
    scaled = unit * b
    system = cosines * scaled[:, None] * scaled
    system.flat[:: b.size + 1] = 1 + RIDGE
    try:
        step: Array = unit * np.linalg.solve(system, unit * rest)
    except np.linalg.LinAlgError:
        return np.full_like(b, np.nan)
    return step


def _length(cosines: Array, b: Array, share: Array, step: Array, power: float) -> float:
    """Return how much of a step to take: all of it, or what halves the slope along it and leaves x positive."""
    change = b * step
    image = cosines @ change
    linear, quadratic = float(image @ b), float(image @ change)
    gain = share * step

    def slope(length: float) -> float:
        return linear + length * quadratic - float(gain @ (1 + length * step) ** -power)

    goal = 0.5 * abs(slope(0.0))
    low, high = 0.0, min(1.0, _BOUNDARY / max(float(-step.min()), _BOUNDARY))
    if slope(high) <= goal:
        return high
    for _ in range(_HALVINGS):
        length = 0.5 * (low + high)
        rise = slope(length)
        if abs(rise) <= goal:
            return length
        low, high = (length, high) if rise < 0 else (low, length)
    return low
