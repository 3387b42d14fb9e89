"""Two gradients: what each solver has a closed form for, in plain numbers.

Letters: a and c the squares of the two norms, b the inner product.

>>> simplex_of_two(1.0, -1.0, 5.0)
[0.75, 0.25]
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["LOST", "cagrad_of_two", "cone_of_two", "nash_of_two", "simplex_of_two"]

_EPS = float(np.finfo(np.float64).eps)
LOST = 1e-3  # the relative error from rounding at which a sum is no longer known


def simplex_of_two(a: float, b: float, c: float, rise: float = 0.0) -> list[float]:
    """Return the weights that minimise 0.5 ||g_w||^2 + rise w_2.

    Each is proportional to how far the slope along the segment is from 0 at the other.
    """
    first, second = max(c - b + rise, 0.0), max(a - b - rise, 0.0)
    larger = max(first, second)
    if not larger:  # one point, twice
        return [0.5, 0.5]
    first, second = first / larger, second / larger
    return [first / (first + second), second / (first + second)]


def cagrad_of_two(a: float, b: float, c: float, rise: float, reach: float) -> list[float]:
    """Return the weights that minimise rise w_1 + reach ||g_w||.

    ||g_w||^2 is a parabola along the segment, so the slope's zero is explicit.
    """
    curvature = a + c - 2 * b  # ||g_1 - g_2||^2
    if curvature <= _EPS * (a + c):
        return [0.5, 0.5]
    slack = reach * reach * curvature - rise * rise
    if not rise:
        first = (c - b) / curvature
    elif slack > 0:
        height = math.sqrt(max(a * c - b * b, 0.0))  # of the triangle, times its base
        first = (c - b - rise * height / math.sqrt(slack)) / curvature
    else:
        first = 0.0 if rise > 0 else 1.0
    first = min(max(first, 0.0), 1.0)
    return [first, 1.0 - first]


def cone_of_two(b: float, norms: list[float], references: list[list[float]]) -> list[list[float]]:
    """Raise each of two to where the other is not hurt: of u >= 0, at most one has to be raised."""
    first, second = norms
    if not (first and second):
        return references
    cosine = -min(max(b / first / second, -1.0), 0.0)
    ratio = second / first
    return [[max(u, cosine * ratio * v), max(v, cosine / ratio * u)] for u, v in references]


def nash_of_two(b: float, norms: list[float]) -> tuple[list[float], bool]:
    """Return 1 / (||g_i|| sqrt(1 + cos)), and True; or without the root, and False, where it is made of rounding."""
    first, second = norms
    shared = 1 + min(max(b / first / second, -1.0), 1.0)
    converged = shared > _EPS / LOST
    root = math.sqrt(shared) if converged else 1.0
    return [1 / first / root, 1 / second / root], converged
