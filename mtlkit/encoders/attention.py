"""What the encoders that attend are made of: blocks of a transformer, codes of positions, and what is left in the end.

Letters: B batch, L the length of a sequence, D the width of its vectors.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

__all__ = ["Pool", "block", "grid_sinusoids", "learned", "sinusoids"]

_LONGEST = 10_000.0  # the wavelengths run from 2 pi to this times 2 pi (Vaswani et al., section 3.5)


def block(width: int, heads: int, expansion: int, dropout: float) -> nn.TransformerEncoderLayer:
    """Return a block over sequences ``[B, L, D]``: h + attention(norm(h)), then h + mlp(norm(h)), with GELU.

    The norms come first (pre-norm), so that what goes in is kept to the end: such a stack trains without a warm-up
    (Xiong et al., "On layer normalization in the transformer architecture", ICML 2020).

    Raises:
        ValueError: If the heads do not divide the width.
    """
    if width % heads:
        divisors = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
        raise ValueError(f"width {width} cannot be split among {heads} heads; it can among {divisors}")
    return nn.TransformerEncoderLayer(
        width, heads, expansion * width, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
    )


class Pool(nn.Module):
    """The last normalisation of a sequence, and its features.

    Args:
        width: D.
        kind: The ``mean`` of the sequence, the ``first`` vector of it, or with ``none`` the sequence itself.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(self, width: int, kind: Literal["mean", "first", "none"]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.kind = kind

    def forward(self, sequence: Tensor, padding: Tensor | None = None) -> Tensor:
        """Turn sequences ``[B, L, D]`` into vectors ``[B, D]``, or leave them sequences.

        Args:
            sequence: The sequences.
            padding: Where nothing stands, as booleans ``[B, L]``: it counts as 0, and for nothing in a mean.
        """
        normal: Tensor = self.norm(sequence)
        if padding is not None:
            normal = normal.masked_fill(padding[..., None], 0)
        if self.kind == "none":
            return normal
        if self.kind == "first":
            return normal[:, 0]
        if padding is None:
            return normal.mean(1)
        return normal.sum(1) / (~padding).sum(1, keepdim=True).clamp(min=1)


def learned(length: int, width: int) -> nn.Parameter:
    """Return codes of positions ``[length, width]`` that are learned, small at first."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(length, width), std=0.02))


def sinusoids(length: int, width: int) -> Tensor:
    """Return codes of positions ``[length, width]``: sines, then cosines, of wavelengths that grow geometrically.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.5; there, sines and cosines alternate.

    Raises:
        ValueError: If the width is odd.
    """
    if width % 2:
        raise ValueError(f"positions of sines and cosines need an even width; received {width}")
    rates = torch.exp(-math.log(_LONGEST) * torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates  # [L, D / 2]
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def grid_sinusoids(height: int, width: int, size: int) -> Tensor:
    """Return codes of places in a grid ``[height * width, size]``, row by row: half for the row, half for the column.

    Raises:
        ValueError: If the size is no multiple of 4.
    """
    if size % 4:
        raise ValueError(f"positions of sines and cosines in two dimensions need a width in fours; received {size}")
    rows, columns = sinusoids(height, size // 2), sinusoids(width, size // 2)
    return torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], 1)
