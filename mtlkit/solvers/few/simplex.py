"""Convex programs over the simplex, of few gradients: the point of least norm, and what CAGrad's come down to.

As in ``quadratic``, every gradient has norm 1 here, and the weights are w = u b, u the least norm over each; C are the
cosines. The members of a face are the tasks whose weights are not held at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import mul
from typing import NamedTuple

from mtlkit.solvers.few.linear import Rows, cosines_of, dot, factor_of, image_of, norms_of, product_of_two, solution
from mtlkit.solvers.few.pivoting import ROUNDS, exchanged
from mtlkit.solvers.two import simplex_of_two

__all__ = ["FAR", "Face", "Least", "least", "min_norm_of_few", "simplex_qp_of_few", "weights_of"]

# How many times as long as another a gradient may be. With a linear term, the tolerance of the general solvers is one
# beside the longest gradient, so that of others they may make what they like.
FAR = 1e3


class Face(NamedTuple):
    """What minimises 0.5 b'Cb + t s'b with u'b = 1 over the members of a face, for any t: b = start + t drift.

    Attributes:
        start: That for t = 0, the members alone.
        drift: How it moves with t.
        square: b'Cb at the start.
        bend: What is added to it with t^2.
        rise: What the multiplier of u'b = 1, ``square`` at the start, rises by with t.
    """

    start: list[float]
    drift: list[float]
    square: float
    bend: float
    rise: float

    @classmethod
    def of(
        cls, cosines: Rows, units: Sequence[float], slope: Sequence[float] | None, members: list[int]
    ) -> Face | None:
        """Solve for one face; None where its gradients are nearly dependent."""
        factor = factor_of(cosines, members)
        if factor is None:
            return None
        own = [units[i] for i in members]
        x = solution(factor, own)
        square = 1 / dot(own, x)
        start = [square * each for each in x]
        if slope is None:
            return cls(start, [0.0] * len(start), square, 0.0, 0.0)
        tilt = [slope[i] for i in members]
        y = solution(factor, tilt)
        rise = dot(tilt, start)
        drift = [rise * one - other for one, other in zip(x, y, strict=True)]
        return cls(start, drift, square, max(-dot(tilt, drift), 0.0), rise)


class Least(NamedTuple):
    """Where a program is least.

    Attributes:
        b: The weights over u ``[T]``.
        t: The factor on the slope there.
    """

    b: list[float]
    t: float


def min_norm_of_few(gramian: Rows) -> list[float] | None:
    """Do what :func:`~mtlkit.solvers.min_norm_point` does; None where that is to be asked."""
    return simplex_qp_of_few(gramian, None)


def simplex_qp_of_few(gramian: Rows, linear: Sequence[float] | None) -> list[float] | None:
    """Do what :func:`~mtlkit.solvers.simplex_qp` does, None for no linear term; None where that is to be asked."""
    norms = norms_of(gramian)
    if norms is None:
        return None
    if len(norms) == 1:
        return [1.0]
    if len(norms) == 2:  # noqa: PLR2004
        product = product_of_two(gramian)
        if product is None:
            return None
        return simplex_of_two(gramian[0][0], product, gramian[1][1], linear[1] - linear[0] if linear else 0.0)
    cosines, shortest = cosines_of(gramian, norms), min(norms)
    if cosines is None or (linear is not None and max(norms) > FAR * shortest):
        return None
    units = [shortest / norm for norm in norms]
    slope = None
    values = norms
    if linear is not None:
        slope = [each * unit / shortest / shortest for each, unit in zip(linear, units, strict=True)]
        values = [0.5 * norm * norm + each for norm, each in zip(norms, linear, strict=True)]
    found = least(cosines, units, slope, values.index(min(values)), lambda _: 1.0, 1.0)
    return None if found is None else weights_of(found.b, units)


def weights_of(b: Sequence[float], units: Sequence[float]) -> list[float]:
    """Return the weights ``[T]``, of sum 1."""
    weights = list(map(mul, b, units))
    total = sum(weights)
    return [weight / total for weight in weights]


def least(
    cosines: Rows, units: list[float], slope: list[float] | None, guess: int, rate: Callable[[Face], float], t: float
) -> Least | None:
    """Minimise 0.5 b'Cb + t s'b over b >= 0 with u'b = 1, where t may depend on the face that the minimum is on.

    By block pivoting (see ``active_set``), from a task and those that are to have some weight beside it: as a rule,
    these are the members of the face that is looked for.

    Args:
        cosines: C ``[T, T]``.
        units: u ``[T]``.
        slope: s ``[T]``; None for zeros.
        guess: The task to begin with.
        rate: Gives t for a face; infinity where it has too many members for any.
        t: That of the guess alone.

    Returns:
        The minimum; None where it was not found, is a tie, or is not known to the tolerance.
    """
    members = _joined(cosines, units, slope, guess, t)
    for _ in range(ROUNDS):
        face = Face.of(cosines, units, slope, members)
        if face is None:
            return None
        t = rate(face)
        if t == math.inf:
            members = members.copy()
            del members[_first_to_leave(face)]
        else:
            found = Least([0.0] * len(units), t)
            for i, start, drift in zip(members, face.start, face.drift, strict=True):
                found.b[i] = start + t * drift
            slacks = _slacks(cosines, units, slope, found, face.square + t * face.rise)
            kept, sure = exchanged(members, found.b, slacks)
            if kept == members:
                return found if sure else None
            members = kept
        if not members:
            return None
    return None


def _joined(cosines: Rows, units: list[float], slope: list[float] | None, guess: int, t: float) -> list[int]:
    """Return a task, alone with all the weight, and those that would then have a slack below 0, in order."""
    b = 1 / units[guess]
    if slope is None:
        slacks = [b * (cosine - b * unit) for cosine, unit in zip(cosines[guess], units, strict=True)]
    else:
        level = b * (b + t * slope[guess])
        slacks = [
            b * cosine + t * each - level * unit
            for cosine, each, unit in zip(cosines[guess], slope, units, strict=True)
        ]
    return [place for place, slack in enumerate(slacks) if slack < 0 or place == guess]


def _slacks(cosines: Rows, units: list[float], slope: list[float] | None, found: Least, level: float) -> list[float]:
    """Return Cb + t s - level u ``[T]``, the level being the multiplier of u'b = 1."""
    slacks = [image - level * unit for image, unit in zip(image_of(cosines, found.b), units, strict=True)]
    if slope is not None:
        slacks = [slack + found.t * each for slack, each in zip(slacks, slope, strict=True)]
    return slacks


def _first_to_leave(face: Face) -> int:
    """Return the place of the member whose b is the first to be 0 as t grows."""
    ratios = [drift / start if start > 0 else -math.inf for start, drift in zip(face.start, face.drift, strict=True)]
    return ratios.index(min(ratios))
