"""The mlp head: hidden layers of the task's own, then a linear layer to the outputs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.heads.flat import flat_size
from mtlkit.layers import Activation, dense
from mtlkit.specs import FeatureSpec

__all__ = ["MLP"]


class MLP(nn.Module):
    """Hidden layers over the flattened features, then a linear layer.

    Args:
        features: The shape of one row of features.
        outputs: The number of outputs: classes, or regressed values.
        layers: The width of each hidden layer.
        activation: What follows each hidden layer.
        dropout: The probability of dropping a hidden unit, in [0, 1).

    Raises:
        ValueError: If the features are several by name.
    """

    def __init__(
        self,
        features: FeatureSpec,
        outputs: int,
        *,
        layers: Sequence[int] = (64,),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size = flat_size(features, "mlp")
        self.hidden = dense(self.size, layers, activation_name=activation, dropout=dropout)
        self.output = nn.Linear(layers[-1] if layers else self.size, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features ``[B, *features.shape]`` into outputs ``[B, outputs]``."""
        outputs: Tensor = self.output(self.hidden(features.reshape(len(features), self.size)))
        return outputs
