"""CAGrad's weights, of few gradients: a quadratic program whose linear term depends on the face that its minimum is on.

With C, u and b as in ``simplex``, all norms in units of the least, s_i = u_i g_i . g_0 and r = c ||g_0||: the minimum
of 0.5 ||g_w||^2 + t g_w . g_0 is CAGrad's where ||g_w|| = t r, and on a face ||g_w||^2 is square + bend t^2.
"""

from __future__ import annotations

import math

from mtlkit.solvers.few.linear import Rows, cosines_of, dot, image_of, norms_of, product_of_two
from mtlkit.solvers.few.simplex import FAR, Face, least, weights_of
from mtlkit.solvers.two import cagrad_of_two

__all__ = ["cagrad_of_few"]

_NOTHING = 1e-8  # the square of a combination, beside those of what it is made of, that may be made of rounding
_SMALLEST, _LARGEST = 1e-6, 1e6  # values of c; beyond them, one of the two terms is lost beside the other
_CLOSE = 1e-9  # how nearly ||g_w|| = t r has to hold


def cagrad_of_few(gramian: Rows, c: float) -> list[float] | None:
    """Do what :func:`~mtlkit.solvers.cagrad_weights` does; None where that is to be asked."""
    norms = norms_of(gramian)
    if norms is None or not _SMALLEST < c < _LARGEST:
        return None
    if len(norms) == 2:  # noqa: PLR2004
        return _of_two(gramian, c)
    cosines = cosines_of(gramian, norms)
    return None if cosines is None else _of_many(cosines, norms, c)


def _of_two(gramian: Rows, c: float) -> list[float] | None:
    product, top = product_of_two(gramian), max(gramian[0][0], gramian[1][1])
    if product is None:
        return None
    a, b, d = gramian[0][0] / top, product / top, gramian[1][1] / top
    first, second = 0.5 * (a + b), 0.5 * (b + d)  # g_i . g_0
    square = 0.5 * (first + second)
    if square <= _NOTHING:
        return None
    return cagrad_of_two(a, b, d, first - second, c * math.sqrt(square))


def _of_many(cosines: Rows, norms: list[float], c: float) -> list[float] | None:
    shortest = min(norms)
    lengths = [norm / shortest for norm in norms]
    slope = [each / len(norms) for each in image_of(cosines, lengths)]  # s
    square, longest = dot(slope, lengths) / len(norms), max(lengths)  # ||g_0||^2
    if longest > FAR or not square > _NOTHING * longest * longest:
        return None
    reach = c * math.sqrt(square)  # r

    def rate(face: Face) -> float:
        """Return t; infinity where ||g_w|| > t r for all of them."""
        rest = reach * reach - face.bend
        return math.sqrt(face.square / rest) if rest > 0 else math.inf

    values = [length * (each + reach) for length, each in zip(lengths, slope, strict=True)]
    best = values.index(min(values))  # of the gradients themselves
    units = [1 / length for length in lengths]
    found = least(cosines, units, slope, best, rate, lengths[best] / reach)
    if found is None:
        return None
    b, t = found
    square = dot(b, image_of(cosines, b))  # ||g_w||^2
    if not square > _NOTHING * sum(b) ** 2 or not abs(square - (t * reach) ** 2) <= _CLOSE * square:
        return None
    return weights_of(b, units)
