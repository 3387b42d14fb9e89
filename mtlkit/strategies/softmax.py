"""Softmax of plain numbers: of a few, they take a fraction of the time that tensors do.

>>> softmax([0.0, 0.0])
[0.5, 0.5]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["softmax"]


def softmax(values: Sequence[float]) -> list[float]:
    """Return exp(v_i) / sum_j exp(v_j)."""
    largest = max(values)
    powers = [math.exp(value - largest) for value in values]
    total = sum(powers)
    return [power / total for power in powers]
