"""The weights under which few tasks gain alike, by Newton's method as in ``nash``.

There x are the weights relative to what each would be alone, k their scale, b = k x; the equations are
b_i (Cb)_i = k_i^2 x_i^(1-p), p = 1/alpha, C the cosines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

from mtlkit.solvers.few.linear import Rows, cosines_of, dot, factor_of, image_of, norms_of, product_of_two, solution
from mtlkit.solvers.two import nash_of_two

__all__ = ["nash_of_few"]

_ALPHAS = (0.05, 1e3)  # between them, no power leaves float64
_LIMIT = 15  # steps; four or five is what it takes
_LEFT = 1e-14  # what the next step may be, going by the last two, where there is nothing left to gain
_NEAR = 3e-3  # from a step so small on, its system serves the next ones too: each is as small a part of the one before
_LONGEST = 0.5  # the most of its value that a weight may change by in a step
_FLAT = 1e-3  # the square of a combination, beside those of what it is made of, that is nearly 0


def nash_of_few(gramian: Rows, alpha: float = 1.0) -> list[float] | None:
    """Do what :func:`~mtlkit.solvers.nash_weights` does where that converges; None where that is to be asked."""
    norms = norms_of(gramian)
    if norms is None or not _ALPHAS[0] <= alpha <= _ALPHAS[1]:
        return None
    power = 1 / alpha
    if len(norms) == 2 and power == 1:  # noqa: PLR2004
        product = product_of_two(gramian)
        weights, converged = nash_of_two(product or 0.0, norms)
        return weights if converged and product is not None else None
    cosines = cosines_of(gramian, norms)
    if cosines is None:
        return None
    scale = [norm ** ((power - 1) / (power + 1)) for norm in norms]
    largest = max(scale)
    x = _newton(cosines, [each / largest for each in scale], power)
    return x and [each * norm ** (-2 / (1 + power)) for each, norm in zip(x, norms, strict=True)]


def _newton(cosines: Rows, scale: list[float], power: float) -> list[float] | None:
    """Return x; None where it was not found."""
    squares = list(map(mul, scale, scale))
    total = dot(scale, image_of(cosines, scale))
    if not total > _FLAT * sum(squares):
        return None
    x = [(sum(squares) / total) ** (1 / (1 + power))] * len(scale)  # the least along the ray of equal x
    factor, units, share, before = None, x, squares, 1.0
    for _ in range(_LIMIT):
        b = list(map(mul, scale, x))
        if power != 1:
            share = [square * each ** (1 - power) for square, each in zip(squares, x, strict=True)]
        if before > _NEAR:  # (BCB + p diag(share)) step = rest, scaled to a unit diagonal
            units = [1 / math.sqrt(each * each + power * whole) for each, whole in zip(b, share, strict=True)]
            factor = factor_of(_scaled(cosines, list(map(mul, units, b))), range(len(b)))
        if factor is None:
            return None
        rest = [
            unit * (whole - each * image)
            for unit, whole, each, image in zip(units, share, b, image_of(cosines, b), strict=True)
        ]
        step = list(map(mul, units, solution(factor, rest)))
        size = max(map(abs, step))
        length = 1.0 if size <= _LONGEST else _LONGEST / size
        x = [each * (1 + length * change) for each, change in zip(x, step, strict=True)]
        if size * size <= _LEFT * before:
            return x
        before = size
    return None


def _scaled(cosines: Rows, scale: Sequence[float]) -> Rows:
    """Return SCS up to the diagonal, and ones on it."""
    system = []
    for place, (row, own) in enumerate(zip(cosines, scale, strict=True)):
        system.append([cosine * own * other for cosine, other in zip(row[:place], scale, strict=False)])
        system[place].append(1.0)
    return system
