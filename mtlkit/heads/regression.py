"""The regression head: numbers of any shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.heads.mlp import MLP
from mtlkit.layers import Activation
from mtlkit.specs import FeatureSpec

__all__ = ["Regression"]


class Regression(nn.Module):
    """Numbers of any shape for each row: one for each entry of the target, and no dimension that it has not.

    Args:
        features: The shape of one row of features.
        shape: The shape of one row's target: ``()`` where the targets are ``[B]``, ``(3,)`` where they are ``[B, 3]``.
        layers: The width of each hidden layer; none by default.
        activation: What follows each hidden layer.
        dropout: The probability of dropping a hidden unit, in [0, 1).
    """

    def __init__(
        self,
        features: FeatureSpec,
        shape: Sequence[int] = (),
        *,
        layers: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.map = MLP(features, math.prod(self.shape), layers=layers, activation=activation, dropout=dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features ``[B, *features.shape]`` into outputs ``[B, *shape]``."""
        outputs: Tensor = self.map(features)
        return outputs.reshape(len(outputs), *self.shape)
