"""What the dense heads share: features that are maps, of one scale or of several, brought to one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtlkit.specs import FeatureSpec
from mtlkit.tensors import Tensors, named

__all__ = ["MergedMaps", "scaled"]

MAP_DIMENSIONS = 3  # channels, height, width


class MergedMaps(nn.Module):
    """Maps of one scale or several, each through a 1x1 convolution, scaled up to the largest and added.

    As the features of a pyramid are merged for dense prediction (Kirillov et al., Panoptic feature pyramid networks,
    CVPR 2019, section 3.2), with bilinear upsampling in one step.

    Args:
        features: The shape of one row of features: (channels, height, width), or several such by name.
        channels: The number of channels that it makes.
        what: What to call the head in an error.

    Attributes:
        size: The height and the width of what it makes.

    Raises:
        ValueError: If the features are no maps.
    """

    def __init__(self, features: FeatureSpec, channels: int, what: str) -> None:
        super().__init__()
        parts = features.parts or {"": features}
        if any(len(part.shape) != MAP_DIMENSIONS for part in parts.values()):
            raise ValueError(
                f"{what} takes features of shape (channels, height, width), one or several by name, and these are "
                f"{features}; an encoder of images makes such features where it does not pool"
            )
        self.names = list(parts)
        self.convolutions = nn.ModuleList(nn.Conv2d(part.shape[0], channels, 1) for part in parts.values())
        self.size = max((part.shape[1:] for part in parts.values()), key=lambda size: size[0] * size[1])

    def forward(self, features: Tensors) -> Tensor:
        """Turn maps ``[B, C, H, W]`` into one ``[B, channels, *size]``."""
        parts = named(features)
        made = [convolve(parts[name]) for name, convolve in zip(self.names, self.convolutions, strict=True)]
        made = [scaled(maps, self.size) for maps in made]
        return torch.stack(made).sum(0)


def scaled(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps of another height and width, bilinear between pixels."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
