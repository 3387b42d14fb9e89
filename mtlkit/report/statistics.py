"""Student's t, which the standard library lacks: intervals over a handful of seeds need it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

__all__ = ["interval", "t_quantile"]


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t distribution, for a probability in [0.5, 1).

    By bisection on the closed form for whole degrees of freedom (Abramowitz, Stegun, 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1.0
    while _cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _cdf(t: float, freedom: int) -> float:
    theta = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(theta)
    odd = freedom % 2
    term = cosine if odd else 1.0
    series = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        series += term
    within = 2 / math.pi * (theta + math.sin(theta) * series) if odd else math.sin(theta) * series
    return 0.5 + within / 2


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of the mean; None where there are not two finite values."""
    if len(values) < 2 or not all(map(math.isfinite, values)):  # noqa: PLR2004
        return None
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half
