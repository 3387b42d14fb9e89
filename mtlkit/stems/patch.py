"""The ``patch`` stem: an image as a sequence of its patches."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mtlkit.layers import Positive
from mtlkit.specs import InputSpec
from mtlkit.stems.base import Stem

__all__ = ["Patch"]


class Patch(Stem):
    """An image as the sequence of its patches, row by row, each a vector of its pixels.

    For an encoder of sequences, as in Dosovitskiy et al., ICLR 2021, section 3.1. Nothing in it is learned.

    Args:
        inputs: The shape of one row: channels, height, width.
        size: The height and the width of a patch in pixels; the image's must be multiples of them.

    Raises:
        ValueError: If a row is not an image, or cannot be cut into such patches.
    """

    def __init__(self, inputs: InputSpec, *, size: tuple[Positive, Positive] = (4, 4)) -> None:
        super().__init__()
        if not inputs.is_image:
            raise ValueError(f"patch takes images of shape (channels, height, width), and a row here is {inputs}")
        channels, height, width = inputs.shape
        tall, wide = size
        if height % tall or width % wide:
            raise ValueError(f"an image of {height} x {width} pixels cannot be cut into patches of {tall} x {wide}")
        self.size = (tall, wide)
        self.rows = InputSpec((height // tall * (width // wide), channels * tall * wide))

    def forward(self, inputs: Tensor) -> Tensor:
        return F.unfold(inputs, self.size, stride=self.size).transpose(1, 2)  # [B, L, C * h * w]
