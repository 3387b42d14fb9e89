"""The tagging head: outputs for each place of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtlkit.layers import Activation, dense
from mtlkit.specs import FeatureSpec

__all__ = ["Tagging"]

SEQUENCE_DIMENSIONS = 2  # places, features


class Tagging(nn.Module):
    """The same layers over the features of each place of a sequence.

    Args:
        features: The shape of one row of features: (places, features), as of an encoder that does not pool.
        outputs: The number of tags.
        layers: The width of each hidden layer; none by default.
        activation: What follows each hidden layer.
        dropout: The probability of dropping a hidden unit, in [0, 1).

    Raises:
        ValueError: If the features are no sequence.
    """

    def __init__(
        self,
        features: FeatureSpec,
        outputs: int,
        *,
        layers: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(features.shape) != SEQUENCE_DIMENSIONS:
            raise ValueError(
                f"a tagging head takes features of shape (places, features), and these are {features}; an encoder of "
                "sequences makes such features where it does not pool (transformer with pool: none)"
            )
        width = features.shape[-1]
        self.hidden = dense(width, layers, activation_name=activation, dropout=dropout)
        self.output = nn.Linear(layers[-1] if layers else width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features ``[B, L, D]`` into outputs ``[B, outputs, L]``, as losses and metrics take them."""
        outputs: Tensor = self.output(self.hidden(features))
        return outputs.transpose(1, 2)
