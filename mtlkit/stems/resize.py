"""The ``resize`` stem: images of another size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mtlkit.layers import Positive
from mtlkit.specs import InputSpec
from mtlkit.stems.base import Stem

__all__ = ["Resize"]


class Resize(Stem):
    """Images scaled to one height and width. Nothing in it is learned.

    Args:
        inputs: The shape of one row: channels, height, width.
        size: The height and the width in pixels.
        mode: How values between pixels are found: ``bilinear`` (a smaller image is smoothed first, so that no detail
            aliases), ``bicubic`` likewise, or ``nearest``.

    Raises:
        ValueError: If a row is not an image.
    """

    def __init__(
        self,
        inputs: InputSpec,
        *,
        size: tuple[Positive, Positive],
        mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
    ) -> None:
        super().__init__()
        if not inputs.is_image:
            raise ValueError(f"resize takes images of shape (channels, height, width), and a row here is {inputs}")
        self.size, self.mode = tuple(size), mode
        self.rows = InputSpec((inputs.shape[0], *self.size))

    def forward(self, inputs: Tensor) -> Tensor:
        if tuple(inputs.shape[-2:]) == self.size:
            return inputs
        if self.mode == "nearest":
            return F.interpolate(inputs, self.size, mode="nearest-exact")
        return F.interpolate(inputs, self.size, mode=self.mode, align_corners=False, antialias=True)
