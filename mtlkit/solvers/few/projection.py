"""Projection of few numbers on the simplex."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["project_few_to_simplex"]


def project_few_to_simplex(v: Sequence[float]) -> list[float] | None:
    """Do what :func:`~mtlkit.solvers.project_to_simplex` does; None where a number is not finite."""
    if not all(map(math.isfinite, v)):
        return None
    largest = max(v)
    below = [max(each - largest, -1.0) for each in v]  # [T] in [-1, 0]
    total, theta = 0.0, 0.0
    for count, each in enumerate(sorted(below, reverse=True), start=1):
        total += each
        excess = (total - 1.0) / count
        if each <= excess:
            break
        theta = excess
    weights = [max(each - theta, 0.0) for each in below]
    whole = sum(weights)
    return [weight / whole for weight in weights]
