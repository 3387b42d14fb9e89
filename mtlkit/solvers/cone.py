"""Projection of combined gradients on the dual cone, where no task's loss rises: UPGrad's weights, and GEM's.

>>> dual_cone([[1.0, -1.0], [-1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]])
array([[1. , 0.5],
       [1. , 1. ]])
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtlkit.solvers.active_set import TOLERANCE, Mask, Problem, active_set
from mtlkit.solvers.gramian import RIDGE, Array, angles, checked, norms_of, vectors
from mtlkit.solvers.two import cone_of_two

__all__ = ["dual_cone"]

_LIMIT = 2000  # linear systems for one row, where the batch gave up on it
_PRECISION = (1e-2, 1e-3, 1e-4, 0.3 * TOLERANCE)  # of the rounds' systems: digits are wasted on wrong supports
_ROUNDS = 15
_SMALL = 40  # up to so many tasks, dense systems are quicker than conjugate gradients
_STEPS = 60  # of conjugate gradients in one round


def dual_cone(gramian: Any, references: Any) -> Array:
    """Return, for each row u of the references, the v >= u that minimises v'Mv.

    G v is then the projection of G u on the cone {d : g_i . d >= 0 for all i}; v - u holds the multipliers. UPGrad
    (Quinton, Rey, arXiv:2406.16232, 2024, proposition 1) projects each gradient, so its references are
    the rows of the identity, and averages the rows of the result; GEM (Lopez-Paz, Ranzato, NeurIPS 2017, equation 11)
    projects one combination.

    Method: with x = v - u, min 0.5 x'Mx + (Mu)'x over x >= 0, in units in which every gradient has norm 1. All rows at
    once, each round finds x on a guess of its support, and exchanges every index that violates the conditions (Judice,
    Pires, Computers Ops. Res. 1994); its linear systems are solved directly up to 40 tasks, and by conjugate gradients
    beyond. Rows that do not settle are solved one by one (``active_set``). For T = 2 and u >= 0 there is a closed form.

    Tolerance: with d_i the norms, and the scale s = max_i d_i |u_i| + sum_i d_i x_i of a row, v >= u exactly,
    (Mv)_i >= -1e-10 d_i s, and (Mv)_i <= 1e-10 d_i s where v_i > u_i; the least of the duplicated or dependent
    solutions is taken, nearly.

    Cost: a few products of [R, T] with [T, T] a round; the identity's rows at T = 139 take some milliseconds, and some
    tens where M is singular.

    Degenerate input: a zero gradient constrains nothing, so there v_i = u_i. Opposite gradients project on 0 or on
    what is orthogonal to both. The result is finite for all finite positive semidefinite M.

    Args:
        gramian: M ``[T, T]``.
        references: ``[R, T]``, of any sign.

    Returns:
        v ``[R, T]``.

    Raises:
        ValueError: If the arrays do not fit, or are not finite.
    """
    matrix = checked(gramian)
    references = vectors(references, size=len(matrix), name="references")
    if (references @ matrix >= 0).all():
        return np.array(references)  # where nothing conflicts, nothing is projected
    norms = norms_of(matrix)
    if norms.size == 2 and (references >= 0).all():  # noqa: PLR2004
        return np.array(cone_of_two(matrix.item(1), norms.tolist(), references.tolist()))
    cosines = angles(matrix, norms)
    norms /= norms.max() or 1.0
    combined = references * norms  # [R, T]
    scale = np.abs(combined).max(axis=1, keepdims=True, initial=0.0)  # [R, 1]
    combined /= scale + (scale == 0)
    right = -(combined @ cosines)
    cosines.flat[:: len(matrix) + 1] += RIDGE
    multipliers = _nonnegative(cosines, right)
    multipliers *= scale
    multipliers *= (norms > 0) / (norms + (norms == 0))
    multipliers += references
    return multipliers


def _nonnegative(matrix: Array, right: Array) -> Array:
    """Return the y >= 0 that minimises 0.5 y'Ay - b'y, for each row b ``[R, T]``; A ``[T, T]`` is positive definite."""
    y = np.zeros_like(right)
    support = right > 0
    rows = np.arange(len(right))  # those not settled
    for number in range(_ROUNDS):
        precision = _PRECISION[min(number, len(_PRECISION) - 1)]
        try:
            found = _on_supports(matrix, right[rows], support, y[rows], precision)
        except np.linalg.LinAlgError:
            break
        slack = found @ matrix - right[rows]
        allowed = TOLERANCE * (1 + np.abs(found).sum(axis=1, keepdims=True))
        kept = np.where(support, found >= 0, slack >= -allowed)
        settled = (kept & ((np.abs(slack) <= allowed) | ~support)).all(axis=1)
        y[rows] = found
        rows, support = rows[~settled], (support == kept)[~settled]
        if not rows.size:
            break
    for row, guess in zip(rows, support, strict=True):
        problem = Problem(matrix, right[row], len(matrix))
        y[row] = active_set(problem, guess, lambda: np.zeros(len(matrix)), limit=_LIMIT).z
    return np.maximum(y, 0.0)


def _on_supports(matrix: Array, right: Array, support: Mask, guess: Array, precision: float) -> Array:
    """Solve Ay = b on each row's own support ``[R, T]``; y is 0 elsewhere."""
    size = len(matrix)
    if size > _SMALL:
        return _conjugate_gradients(matrix, right, support.astype(np.float64), guess, precision)
    systems = matrix * (support[:, :, None] & support[:, None, :])  # [R, T, T]
    systems.reshape(-1, size * size)[:, :: size + 1] = matrix.diagonal()
    y = np.empty_like(right)
    y[:] = np.linalg.solve(systems, (right * support)[:, :, None])[:, :, 0]
    return y


def _conjugate_gradients(matrix: Array, right: Array, support: Array, guess: Array, precision: float) -> Array:
    """Do so by conjugate gradients (Hestenes, Stiefel, 1952), all rows at once; the support is of zeros and ones."""
    y = guess * support
    residual = (right - y @ matrix) * support
    direction = residual.copy()
    square = _row_products(residual, residual)  # [R]
    goal = (precision * (1 + np.abs(y).sum(axis=1))) ** 2
    for _ in range(_STEPS):
        if (square <= goal).all():
            break
        image = direction @ matrix
        image *= support
        curvature = _row_products(direction, image)
        # The ridge keeps the curvature above 1e-13 of the square: what is below is 0, or no Gram matrix's.
        length = np.divide(square, curvature, out=np.zeros_like(square), where=curvature > 1e-15 * square)
        y += length[:, None] * direction
        image *= length[:, None]
        residual -= image
        before, square = square, _row_products(residual, residual)
        direction *= np.divide(square, before, out=np.zeros_like(square), where=before > 0)[:, None]
        direction += residual
    return y


def _row_products(a: Array, b: Array) -> Array:
    product: Array = np.einsum("ij,ij->i", a, b)
    return product
