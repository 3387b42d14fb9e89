"""The ``vit`` encoder: a transformer over the patches of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlkit.encoders.attention import Pool, block, grid_sinusoids, learned
from mtlkit.encoders.base import Encoder
from mtlkit.layers import Count, Fraction, Positive
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["ViT"]

IMAGE_DIMENSIONS = 3  # channels, height, width
USUAL_PATCHES = (16, 8, 4, 2)  # pixels a side
ENOUGH = 49  # patches: a digit of 28x28 in patches of 4


class ViT(Encoder):
    """A transformer over the patches of an image (Dosovitskiy, Beyer, Kolesnikov et al., ICLR 2021).

    Each patch is mapped linearly to a vector, a code of its place is added, blocks of attention follow, and a last
    normalisation (equations 1 to 4). A class token, where there is one, is a learned vector that stands before them.

    Departures from the paper: the features may be a mean over patches, which is the default, or the sequence; places
    may be coded by sines and cosines; dropout, if any, acts on the codes and in the blocks alike.

    Args:
        inputs: The shape of one row: channels, height, width.
        patch: The side of a patch in pixels, or its height and width; they must divide the image's. By default the
            largest of 16, 8, 4 and 2 that does and leaves at least 49 patches, or else 1.
        width: The width of the vectors.
        depth: The number of blocks.
        heads: The number of attention heads; it must divide the width.
        expansion: How many times wider the hidden layer of a block is.
        dropout: The probability of dropping a unit, in [0, 1).
        positions: How places are coded: ``learned``, or ``sin-cos`` in two dimensions, which need a width in fours.
        pool: What the features are: the ``mean`` over patches, the ``class`` token, or with ``none`` the sequence of
            patches, row by row.

    Raises:
        ValueError: If a row is not an image, or the sizes do not divide.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(  # noqa: PLR0913 - one for each knob of the paper
        self,
        inputs: InputSpec,
        *,
        patch: Positive | tuple[Positive, Positive] | None = None,
        width: Positive = 192,
        depth: Count = 6,
        heads: Count = 3,
        expansion: Count = 4,
        dropout: Fraction = 0.0,
        positions: Literal["learned", "sin-cos"] = "learned",
        pool: Literal["mean", "class", "none"] = "mean",
    ) -> None:
        super().__init__()
        if len(inputs.shape) != IMAGE_DIMENSIONS:
            raise ValueError(f"vit takes images of shape (channels, height, width), and a row here has shape {inputs}")
        channels, height, width_in = inputs.shape
        sides = _patch(height, width_in, patch)
        grid = height // sides[0], width_in // sides[1]
        self.patches = _Patches(
            channels, sides, grid, width, is_learned=positions == "learned", has_class=pool == "class", dropout=dropout
        )
        self.blocks = nn.ModuleList([block(width, heads, expansion, dropout) for _ in range(depth)])
        self.pool = Pool(width, "first" if pool == "class" else pool)
        self.features = FeatureSpec((grid[0] * grid[1], width) if pool == "none" else (width,))

    def stages(self) -> Sequence[nn.Module]:
        return [self.patches, *self.blocks[:-1], nn.Sequential(self.blocks[-1], self.pool)]

    def through(self, index: int, hidden: Any, context: Any) -> Any:
        if index == 0:
            return self.patches(hidden)
        hidden = self.blocks[index - 1](hidden)
        return self.pool(hidden) if index == len(self.blocks) else hidden


class _Patches(nn.Module):
    """The patches of an image as vectors, with their places, and the class token before them if there is one.

    Args:
        channels: The image's channels.
        sides: The height and width of a patch.
        grid: How many patches there are from top to bottom, and from left to right.
        width: D, the width of the vectors.
        is_learned: Whether the codes of the places are learned.
        has_class: Whether there is a class token.
        dropout: The probability of dropping a unit.
    """

    row_by_row: ClassVar[bool] = True
    places: Tensor  # [L, D]

    def __init__(
        self,
        channels: int,
        sides: tuple[int, int],
        grid: tuple[int, int],
        width: int,
        *,
        is_learned: bool,
        has_class: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, width, sides, stride=sides)
        if is_learned:
            self.places = learned(grid[0] * grid[1] + has_class, width)
        else:
            codes = grid_sinusoids(*grid, width)
            codes = torch.cat([torch.zeros(1, width), codes]) if has_class else codes
            self.register_buffer("places", codes, persistent=False)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if has_class else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``[B, C, H, W]`` into sequences ``[B, L, D]``."""
        vectors = self.project(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            vectors = torch.cat([self.token.expand(len(vectors), -1, -1), vectors], 1)
        placed: Tensor = self.dropout(vectors + self.places)
        return placed


def _patch(height: int, width: int, patch: int | tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width of a patch, chosen where they are not given.

    Raises:
        ValueError: If the image is not made of whole patches.
    """
    if patch is None:
        for side in USUAL_PATCHES:
            if height % side == 0 and width % side == 0 and height * width >= ENOUGH * side**2:
                return side, side
        return 1, 1
    sides = (patch, patch) if isinstance(patch, int) else patch
    for side, of, told in zip(sides, (height, width), ("height", "width"), strict=True):
        if of % side:
            divisors = ", ".join(str(n) for n in range(1, of + 1) if of % n == 0)
            raise ValueError(
                f"an image of {told} {of} is not made of whole patches of {told} {side}; it is of patches of {divisors}"
            )
    return sides
