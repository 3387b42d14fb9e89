"""The linear head: one matrix from the features to the outputs."""

from __future__ import annotations

from torch import Tensor, nn

from mtlkit.heads.flat import flat_size
from mtlkit.specs import FeatureSpec

__all__ = ["Linear"]


class Linear(nn.Module):
    """One linear layer over the flattened features.

    Args:
        features: The shape of one row of features.
        outputs: The number of outputs: classes, or regressed values.

    Raises:
        ValueError: If the features are several by name.
    """

    def __init__(self, features: FeatureSpec, outputs: int) -> None:
        super().__init__()
        self.size = flat_size(features, "linear")
        self.output = nn.Linear(self.size, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features ``[B, *features.shape]`` into outputs ``[B, outputs]``."""
        outputs: Tensor = self.output(features.reshape(len(features), self.size))
        return outputs
