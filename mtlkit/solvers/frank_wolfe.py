"""Pairwise Frank-Wolfe over the simplex: slow to the last digits, but it needs no linear system and cannot break."""

from __future__ import annotations

from mtlkit.solvers.gramian import Array

__all__ = ["pairwise_frank_wolfe"]


def pairwise_frank_wolfe(matrix: Array, linear: Array, weights: Array, *, tolerance: float, limit: int) -> Array:
    """Approach min 0.5 w'Mw + linear'w over the simplex (Lacoste-Julien, Jaggi, NeurIPS 2015).

    Each step moves weight from the worst vertex that has any to the best one, with the exact step length.

    Args:
        matrix: M ``[T, T]``, symmetric and positive semidefinite.
        linear: ``[T]``.
        weights: Where to start, in the simplex ``[T]``.
        tolerance: The duality gap at which it is done.
        limit: The most steps to take, each O(T).

    Returns:
        The weights ``[T]``.
    """
    weights = weights.copy()
    slope = matrix @ weights + linear
    for _ in range(limit):
        if weights @ slope - slope.min() <= tolerance:
            break
        best = int(slope.argmin())
        worst = int((slope - (weights <= 0) * (slope.max() - slope.min() + 1)).argmax())
        descent = slope[worst] - slope[best]
        curvature = matrix[best, best] + matrix[worst, worst] - 2 * matrix[best, worst]
        step = weights[worst] if curvature * weights[worst] <= descent else descent / curvature
        weights[worst] -= step
        weights[best] += step
        slope += step * (matrix[best] - matrix[worst])
    weights /= weights.sum()
    return weights
