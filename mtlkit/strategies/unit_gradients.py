"""What the strategies that look at unit gradients have in common: no strategy itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mtlkit.solvers import few

__all__ = ["FewProjections", "cosines_of", "equal_projections", "equal_projections_of_few"]

# Eigenvalues of a matrix of cosines below this, of the largest, count as 0. Gradients are in float32 as a rule, and so
# their cosines are right to some 1e-7 however they are computed further: what is smaller would be made of rounding.
_RANK = 1e-6

# The determinant of the cosines of few gradients above which all eigenvalues count: the least one is no less than a
# third of it, and the largest no more than their number.
_DETERMINANT = 1e-4


def cosines_of(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines between the gradients ``[K, K]``, and the inverse of each one's norm ``[K]``.

    A gradient of 0 has cosine 0 with all, itself included, and inverse norm 0.
    """
    norms = gramian.diagonal().clamp(min=0).sqrt()
    inverse = torch.where(norms > 0, 1 / norms, 0.0)
    return gramian * inverse * inverse[:, None], inverse


def equal_projections(cosines: Tensor, proportions: Tensor | float = 1.0) -> Tensor:
    """Return the coefficients of the unit gradients ``[K]`` that sum to equal projections on each: pinv(C) 1.

    Where there are none but 0 (opposite gradients), all ones.

    Args:
        cosines: C ``[K, K]``.
        proportions: What the projections, and the ones, are instead of equal ``[K]``; at most 1.
    """
    live = (cosines.diagonal() > 0).to(cosines) * proportions
    values, vectors = torch.linalg.eigh(cosines)
    kept = values > _RANK * values.amax().clamp(min=0)
    inverse = torch.where(kept, 1 / values, 0.0)
    coefficients: Tensor = vectors @ (inverse * (vectors.T @ live))
    if coefficients.abs().amax() <= _RANK:
        return live
    return coefficients


class FewProjections(NamedTuple):
    """What :func:`equal_projections_of_few` returns.

    Attributes:
        coefficients: Of the unit gradients ``[K]``.
        norms: The norms of the gradients ``[K]``.
    """

    coefficients: list[float]
    norms: list[float]


def equal_projections_of_few(gramian: few.Rows, proportions: Sequence[float]) -> FewProjections | None:
    """Do what :func:`equal_projections` does, in plain numbers; None where not all eigenvalues count.

    Args:
        gramian: M ``[K, K]``.
        proportions: What the projections are ``[K]``.
    """
    norms = few.norms_of(gramian)
    cosines = None if norms is None else few.cosines_of(gramian, norms)
    factor = None if cosines is None else few.factor_of(cosines, range(len(gramian)), ridge=0.0)
    if norms is None or factor is None or math.prod(row[-1] for row in factor) ** -2 < _DETERMINANT:
        return None
    return FewProjections(few.solution(factor, proportions), norms)
