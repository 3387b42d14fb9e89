"""The ``linear`` stem: a learned linear map to rows of any shape."""

from __future__ import annotations

from torch import Tensor, nn

from mtlkit.layers import Activation, Widths
from mtlkit.layers import activation as activation_layer
from mtlkit.specs import InputSpec
from mtlkit.stems.base import Stem

__all__ = ["Linear"]


class Linear(Stem):
    """A learned linear map from the flattened row to rows of the given shape.

    Args:
        inputs: The shape of one row of numbers.
        shape: The shape of the rows that it makes.
        activation: What follows.

    Raises:
        ValueError: If a row is made of parts, or of categories.
    """

    def __init__(
        self,
        inputs: InputSpec,
        *,
        shape: Widths,
        activation: Activation = "identity",
    ) -> None:
        super().__init__()
        if inputs.parts or inputs.categories:
            told = f"is {inputs}" if inputs.parts else "holds categories"
            raise ValueError(f"linear takes rows of numbers, and a row here {told}; embed makes numbers of it")
        self.size = inputs.size
        self.rows = InputSpec(tuple(shape))
        self.map = nn.Linear(inputs.size, self.rows.size)
        self.activation = activation_layer(activation)

    def forward(self, inputs: Tensor) -> Tensor:
        made: Tensor = self.activation(self.map(inputs.reshape(len(inputs), self.size)))
        return made.reshape(len(inputs), *self.rows.shape)
