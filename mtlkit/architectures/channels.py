"""Hidden rows of three kinds, vectors ``(D,)``, sequences of vectors ``(L, D)`` and maps ``(C, H, W)``, as channels.

The D entries of a vector, or the C maps, are the channels; they are what is weighed, normalised and turned into one
another, at each position alike.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["channels", "norm", "pointwise", "pooled"]

_SEQUENCE, _MAPS = 2, 3  # dimensions


def channels(shape: tuple[int, ...]) -> int:
    """Return the number of channels of a row of this shape.

    Raises:
        ValueError: If it is of no kind.
    """
    if not 0 < len(shape) <= _MAPS:
        raise ValueError(
            f"a hidden row is a vector (D,), a sequence (L, D) or maps (C, H, W), and the encoder makes one of {shape}"
        )
    return shape[0] if len(shape) == _MAPS else shape[-1]


def pooled(hidden: Tensor) -> Tensor:
    """Return rows ``[B, *]`` as vectors ``[B, C]``: sequences and maps averaged over their positions."""
    if hidden.ndim == 1 + _MAPS:
        return hidden.mean((2, 3))
    return hidden.mean(1) if hidden.ndim == 1 + _SEQUENCE else hidden


def pointwise(shape: tuple[int, ...], before: int, after: int) -> nn.Linear | nn.Conv2d:
    """Return a new affine map of `before` channels to `after`, at each position, for rows of the kind of this shape."""
    return nn.Conv2d(before, after, 1) if len(shape) == _MAPS else nn.Linear(before, after)


def norm(shape: tuple[int, ...], width: int) -> nn.Module:
    """Return a new normalisation of that many channels for rows of the kind of this shape.

    It is over a row, and of a sequence over each position: batch statistics would mix the rows of sources that pass one
    after another, and a few channels at one position are too few for groups.
    """
    return nn.GroupNorm(1, width) if len(shape) == _MAPS else nn.LayerNorm(width)
