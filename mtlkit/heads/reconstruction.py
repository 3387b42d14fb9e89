"""The reconstruction head: the row itself, or one like it, from its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from mtlkit.heads.regression import Regression
from mtlkit.heads.segmentation import Segmentation
from mtlkit.layers import Activation
from mtlkit.specs import FeatureSpec
from mtlkit.tensors import Tensors

__all__ = ["Reconstruction"]

IMAGE_DIMENSIONS = 3  # channels, height, width


class Reconstruction(nn.Module):
    """Rows from features: by layers over a vector or a sequence, by convolutions over maps of an image.

    Args:
        features: The shape of one row of features.
        shape: The shape of one row that is made.
        layers: The width of each hidden layer; where the features are maps, the first is the number of channels of the
            hidden maps.
        activation: What follows each hidden layer.

    Raises:
        ValueError: If the features are several by name, and are not maps or the row is no image.
    """

    def __init__(
        self,
        features: FeatureSpec,
        shape: Sequence[int],
        *,
        layers: Sequence[int] = (128,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        parts = features.parts or {"": features}
        are_maps = all(len(part.shape) == IMAGE_DIMENSIONS for part in parts.values())
        self.made: nn.Module
        if are_maps and len(shape) == IMAGE_DIMENSIONS:
            outputs, height, width = shape
            channels = layers[0] if layers else 32
            self.made = Segmentation(features, outputs, (height, width), channels=channels, activation=activation)
        elif features.parts:
            raise ValueError(f"a reconstruction head makes images from maps, and these features are {features}")
        else:
            self.made = Regression(features, shape, layers=layers, activation=activation)

    def forward(self, features: Tensors) -> Tensor:
        """Turn features ``[B, *features.shape]`` into rows ``[B, *shape]``."""
        return cast("Tensor", self.made(features))
