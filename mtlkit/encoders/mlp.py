"""The ``mlp`` encoder: a stack of fully connected layers over the flattened row."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from mtlkit.encoders.base import Encoder
from mtlkit.layers import Activation, Fraction, Positive, dense
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["MLP"]


class MLP(Encoder):
    """Fully connected layers over the flattened row.

    Args:
        inputs: The shape of one row; any shape, it is flattened.
        layers: The width of each layer; the last one is the number of features.
        activation: What follows each layer.
        dropout: The probability of dropping a unit after each activation, in [0, 1).
    """

    def __init__(
        self,
        inputs: InputSpec,
        *,
        layers: Annotated[tuple[Positive, ...], Field(min_length=1)] = (128, 128),
        activation: Activation = "relu",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.layers = dense(inputs.size, layers, activation_name=activation, dropout=dropout)
        self.size = inputs.size
        self.features = FeatureSpec((layers[-1],))

    def forward(self, inputs: Tensor) -> Tensor:
        features: Tensor = self.layers(inputs.reshape(len(inputs), self.size))  # [B, D]
        return features
