"""The ``flatten`` stem: each row as a vector."""

from __future__ import annotations

from torch import Tensor

from mtlkit.specs import InputSpec
from mtlkit.stems.base import Stem

__all__ = ["Flatten"]


class Flatten(Stem):
    """Each row as a vector, whatever its shape. Nothing in it is learned.

    Args:
        inputs: The shape of one row, of numbers or of categories.

    Raises:
        ValueError: If a row is made of parts.
    """

    def __init__(self, inputs: InputSpec) -> None:
        super().__init__()
        if inputs.parts:
            raise ValueError(f"flatten takes rows that are one tensor, and a row here is {inputs}; embed joins parts")
        self.rows = InputSpec((inputs.size,), inputs.categories)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(len(inputs), self.rows.size)
