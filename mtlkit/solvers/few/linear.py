"""Linear algebra of few numbers: the cosines between gradients, and systems of them, by Cholesky's method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import itemgetter, mul
from typing import TypeAlias

import numpy as np

from mtlkit.solvers.gramian import RIDGE

__all__ = [
    "FEW",
    "Rows",
    "cosines_of",
    "dot",
    "eigen_of",
    "factor_of",
    "image_of",
    "norms_of",
    "product_of_two",
    "solution",
]

FEW = 8  # up to so many tasks lists are the quicker ones

Rows: TypeAlias = list[list[float]]

_LEAST, _MOST = 1e-120, 1e120  # squared norms; between them, products and ratios of squares stay inside of float64
_PIVOT = 1e-7  # what a gradient has outside the span of others, of its square, before digits are lost to that


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """Return the inner product of as many numbers as the shorter one has."""
    product: float = sum(map(mul, a, b))
    return product


def image_of(matrix: Rows, x: Sequence[float]) -> list[float]:
    """Return the product of a matrix with a vector."""
    return [sum(map(mul, row, x)) for row in matrix]


def norms_of(gramian: Rows) -> list[float] | None:
    """Return the norms of the gradients; None where one is 0, far from 1, or not finite."""
    norms = []
    for place, row in enumerate(gramian):
        if not _LEAST < row[place] < _MOST:
            return None
        norms.append(math.sqrt(row[place]))
    return norms


def product_of_two(gramian: Rows) -> float | None:
    """Return the inner product of two gradients; None where it is not finite."""
    product = 0.5 * (gramian[0][1] + gramian[1][0])
    return product if math.isfinite(product) else None


def cosines_of(gramian: Rows, norms: Sequence[float]) -> Rows | None:
    """Return the cosines between the gradients; None where one is not finite."""
    cosines: Rows = []
    inverse = [1 / norm for norm in norms]
    for i, row in enumerate(gramian):
        own, half = [], 0.5 * inverse[i]
        for j, column in enumerate(cosines):
            cosine = (row[j] + gramian[j][i]) * half * inverse[j]
            own.append(cosine)
            column.append(cosine)
        if not -FEW < sum(own) < FEW:
            return None
        own.append(1.0)
        cosines.append(own)
    return cosines


def factor_of(matrix: Rows, members: Sequence[int], ridge: float = RIDGE) -> Rows | None:
    """Return the Cholesky factor of the members' rows and columns of a matrix with a unit diagonal, and a ridge on it.

    It comes row by row, up to the diagonal, where the inverse of the number stands; no more than that is looked at of
    the matrix. None where the rows are nearly dependent.
    """
    factor: Rows = []
    for i in members:
        source = matrix[i]
        row: list[float] = []
        for j, other in zip(members, factor):  # noqa: B905 - up to the diagonal
            row.append((source[j] - sum(map(mul, row, other))) * other[-1])
        pivot = source[i] + ridge - sum(map(mul, row, row))
        if not pivot > _PIVOT:
            return None
        row.append(1 / math.sqrt(pivot))
        factor.append(row)
    return factor


def solution(factor: Rows, right: Sequence[float]) -> list[float]:
    """Solve the system of the matrix that has this factor."""
    x: list[float] = []
    for row, value in zip(factor, right, strict=True):
        x.append((value - sum(map(mul, x, row))) * row[-1])
    for place in range(len(x) - 1, -1, -1):
        row = factor[place]
        x[place] = value = x[place] * row[-1]
        for before in range(place):
            x[before] -= row[before] * value
    return x


def eigen_of(matrix: Rows) -> tuple[list[float], Rows]:
    """Return the eigenvalues of a symmetric matrix, in rising order, and the eigenvectors, one after another."""
    if len(matrix) != 2:  # noqa: PLR2004
        values, vectors = np.linalg.eigh(matrix)
        return values.tolist(), vectors.T.tolist()
    (a, _), (b, c) = matrix  # one rotation (Jacobi, 1846) does it
    if b == 0:
        pairs = [(a, [1.0, 0.0]), (c, [0.0, 1.0])]
    else:
        slope = 0.5 * (c - a) / b
        tangent = math.copysign(1.0, slope) / (abs(slope) + math.hypot(slope, 1.0))
        cosine = 1 / math.hypot(tangent, 1.0)
        sine = tangent * cosine
        pairs = [(a - tangent * b, [cosine, -sine]), (c + tangent * b, [sine, cosine])]
    pairs.sort(key=itemgetter(0))
    return [value for value, _ in pairs], [vector for _, vector in pairs]
