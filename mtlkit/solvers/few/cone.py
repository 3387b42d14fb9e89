"""Projection of combinations of few gradients on their dual cone.

With y_i = (v_i - u_i) ||g_i||, a row u of the references is the program min 0.5 y'Cy - r'y over y >= 0, C the cosines.
There r holds the inner products of -G u with the unit gradients: as a rule, those with r_i > 0, which G u conflicts
with, are the ones with y_i > 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtlkit.solvers.few.linear import Rows, cosines_of, factor_of, image_of, norms_of, solution
from mtlkit.solvers.few.pivoting import ROUNDS, exchanged
from mtlkit.solvers.two import cone_of_two

__all__ = ["dual_cone_of_few"]

_MANY = 40  # numbers in the references, beyond which arrays of all rows at once are the quicker ones


def dual_cone_of_few(gramian: Rows, references: Rows | None = None) -> Rows | None:
    """Do what :func:`~mtlkit.solvers.dual_cone` does; None where that is to be asked.

    Args:
        gramian: M ``[T, T]``.
        references: Rows u >= 0 ``[R, T]``; None for those of the identity.
    """
    norms = norms_of(gramian)
    if norms is None or not math.isfinite(sum(map(sum, gramian))):
        return None
    rows = _identity(len(norms)) if references is None else references
    if min(map(min, gramian)) >= 0:
        return rows  # where nothing conflicts, nothing is projected
    if len(norms) == 2:  # noqa: PLR2004
        return cone_of_two(0.5 * (gramian[0][1] + gramian[1][0]), norms, rows)
    cosines = None if len(rows) * len(norms) > _MANY else cosines_of(gramian, norms)
    if cosines is None:
        return None
    raised = []
    for place, row in enumerate(rows):
        if references is None:
            conflict = [-norms[place] * cosine for cosine in cosines[place]]
        else:
            conflict = image_of(cosines, [-u * norm for u, norm in zip(row, norms, strict=True)])
        y = _multipliers(cosines, conflict)
        if y is None:
            return None
        raised.append([u + each / norm for u, each, norm in zip(row, y, norms, strict=True)])
    return raised


def _identity(size: int) -> Rows:
    return [[0.0] * place + [1.0] + [0.0] * (size - place - 1) for place in range(size)]


def _multipliers(cosines: Rows, right: Sequence[float]) -> list[float] | None:
    """Return the y >= 0 that minimises 0.5 y'Cy - r'y ``[T]``; None where it was not found, or is not sure."""
    members = [i for i, value in enumerate(right) if value > 0]
    if not members:
        return [0.0] * len(right)
    for _ in range(ROUNDS):
        factor = factor_of(cosines, members)
        if factor is None:
            return None
        y = [0.0] * len(right)
        for i, value in zip(members, solution(factor, [right[i] for i in members]), strict=True):
            y[i] = value
        slacks = [image - value for image, value in zip(image_of(cosines, y), right, strict=True)]
        kept, sure = exchanged(members, y, slacks)
        if kept == members:
            return y if sure else None
        members = kept
    return None
