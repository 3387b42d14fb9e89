"""What flows between the parts: the shape of one input row, and of one row of features."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["FeatureSpec", "InputSpec"]


@dataclass(frozen=True)
class InputSpec:
    """The shape of one input row, the batch dimension left out: ``(1, 8, 8)`` for a grey 8x8 image."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of values in one row."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FeatureSpec:
    """The shape of one row of features as an encoder makes them, the batch dimension left out."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of features in one row."""
        return math.prod(self.shape)
