"""The layers that encoders and heads are both made of, by the names that a configuration gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtlkit.tensors import Tensors

__all__ = [
    "Activation",
    "Count",
    "Flat",
    "Fraction",
    "Positive",
    "Widths",
    "activation",
    "dense",
    "dense_layers",
    "image_norm",
]

Activation = Literal["relu", "leaky-relu", "elu", "gelu", "silu", "tanh", "identity"]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Count = Annotated[int, Field(ge=1, le=1000)]
"""How many of something are made one by one, such as layers: a mistyped number is refused, not waited for."""
Widths = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=1000)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


def activation(name: Activation) -> nn.Module:
    """Return a new activation layer.

    Raises:
        ValueError: If no activation has this name.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def image_norm(name: str, channels: int) -> nn.Module:
    """Return what normalises images ``[B, channels, *, *]``: over ``group``s of up to 8, the ``batch``, or ``none``."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.Identity()


class Flat(nn.Module):
    """Each row as a vector ``[B, size]``, whatever its shape; a row that is a single number too.

    Args:
        size: The number of values in a row.
        parts: The names of its parts, in the order in which their values follow one another, where it has any.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(self, size: int, parts: Sequence[str] = ()) -> None:
        super().__init__()
        self.size = size
        self.parts = tuple(parts)

    def forward(self, rows: Tensors) -> Tensor:
        """Flatten rows ``[B, *]``, or a mapping of their parts."""
        if isinstance(rows, Tensor):
            return rows.reshape(len(rows), self.size)
        return torch.cat([rows[name].reshape(len(rows[name]), -1) for name in self.parts], 1)


def dense(inputs: int, widths: Sequence[int], *, activation_name: Activation, dropout: float) -> nn.Sequential:
    """Return linear layers of the given widths, each followed by the activation and by dropout."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), activation(activation_name)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers)


def dense_layers(
    inputs: int, widths: Sequence[int], *, activation_name: Activation, dropout: float, parts: Sequence[str] = ()
) -> list[nn.Sequential]:
    """Return the same layers one by one, the first of them over the flattened row, or over its parts side by side."""
    layers = []
    for before, width in zip([inputs, *widths], widths, strict=False):
        layers.append(dense(before, [width], activation_name=activation_name, dropout=dropout))
    return [nn.Sequential(Flat(inputs, parts), *layers[0]), *layers[1:]]
