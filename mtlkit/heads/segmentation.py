"""The segmentation head: outputs for each pixel."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from mtlkit.heads.maps import MergedMaps, scaled
from mtlkit.layers import Activation
from mtlkit.layers import activation as activation_layer
from mtlkit.specs import FeatureSpec
from mtlkit.tensors import Tensors

__all__ = ["Segmentation"]


class Segmentation(nn.Module):
    """Outputs for each pixel: maps merged, a 3x3 convolution, a 1x1 convolution, scaled up to the image's size.

    Args:
        features: The shape of one row of features: (channels, height, width), or several such by name.
        outputs: The number of classes, or of regressed values, of a pixel.
        size: The height and the width of the target in pixels.
        channels: The number of channels of the hidden maps.
        activation: What follows the 3x3 convolution.

    Raises:
        ValueError: If the features are no maps.
    """

    def __init__(
        self,
        features: FeatureSpec,
        outputs: int,
        size: tuple[int, int],
        *,
        channels: int = 32,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.merged = MergedMaps(features, channels, "a segmentation head")
        self.hidden = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), activation_layer(activation))
        self.output = nn.Conv2d(channels, outputs, 1)

    def forward(self, features: Tensors) -> Tensor:
        """Turn maps ``[B, C, h, w]`` into outputs ``[B, outputs, H, W]``."""
        return scaled(cast("Tensor", self.output(self.hidden(self.merged(features)))), self.size)
