"""What flows between the parts: the shape of one input row, and of one row of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

__all__ = ["FeatureSpec", "InputSpec"]


@dataclass(frozen=True)
class InputSpec:
    """The shape of one input row, the batch dimension left out: ``(1, 8, 8)`` for a grey 8x8 image.

    A row may also be made of named parts, such as the numbers and the categories of a table.

    Attributes:
        shape: The shape of the row, where it is one tensor.
        categories: How many values each entry of a row takes, from 0 up, where it is a vector of integers, such as
            the columns of a table or the tokens of a text; empty where it holds numbers.
        parts: What each named part is, where the row is made of parts; ``shape`` is then ``()``.
    """

    shape: tuple[int, ...] = ()
    categories: tuple[int, ...] = ()
    parts: Mapping[str, InputSpec] = field(default_factory=dict, hash=False)

    @property
    def size(self) -> int:
        """The number of values in one row."""
        return sum(part.size for part in self.parts.values()) if self.parts else math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether a row is an image: channels, height, width."""
        return len(self.shape) == 3  # noqa: PLR2004 - which are three

    def __str__(self) -> str:
        """Tell of the shape, as an error message does."""
        return _told(self.shape, self.parts)

    @classmethod
    def covering(cls, specs: Sequence[InputSpec]) -> InputSpec:
        """Return what rows of all these are, whose shapes are the same: of each entry's categories, the most.

        Raises:
            ValueError: If the shapes differ.
        """
        first = specs[0]
        if any(each.shapes != first.shapes for each in specs):
            raise ValueError(f"rows of several shapes: {'; '.join(map(str, specs))}")
        if first.parts:
            return cls(parts={name: cls.covering([each.parts[name] for each in specs]) for name in first.parts})
        most = tuple(map(max, zip(*(each.categories for each in specs), strict=False)))
        return replace(first, categories=most if all(each.categories for each in specs) else ())

    @property
    def shapes(self) -> Self:
        """The same without the numbers of categories: two batches can go through one encoder if these are equal."""
        return replace(self, categories=(), parts={name: part.shapes for name, part in self.parts.items()})


@dataclass(frozen=True)
class FeatureSpec:
    """The shape of one row of features as an encoder makes them, the batch dimension left out.

    By the number of dimensions, features are a vector ``(D,)``, a sequence of vectors ``(L, D)``, or maps
    ``(C, H, W)``. An encoder may also make several, by name: a dict of tensors, such as maps of several scales.

    Attributes:
        shape: The shape of the row, where it is one tensor.
        parts: What each of several named features is; ``shape`` is then ``()``.
    """

    shape: tuple[int, ...] = ()
    parts: Mapping[str, FeatureSpec] = field(default_factory=dict, hash=False)

    @property
    def size(self) -> int:
        """The number of features in one row."""
        return sum(part.size for part in self.parts.values()) if self.parts else math.prod(self.shape)

    def __str__(self) -> str:
        """Tell of the shape, as an error message does."""
        return _told(self.shape, self.parts)


def _told(shape: tuple[int, ...], parts: Mapping[str, object]) -> str:
    return f"{{{', '.join(f'{name}: {part}' for name, part in parts.items())}}}" if parts else str(shape)
