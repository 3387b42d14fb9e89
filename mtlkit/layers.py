"""The layers that encoders and heads are both made of, by the names that a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

__all__ = ["Activation", "Flat", "Fraction", "Positive", "activation", "dense", "dense_layers"]

Activation = Literal["relu", "leaky-relu", "elu", "gelu", "silu", "tanh", "identity"]
Positive = Annotated[int, Field(ge=1)]
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


class Flat(nn.Module):
    """Each row as a vector ``[B, size]``, whatever its shape; a row that is a single number too.

    Args:
        size: The number of values in a row.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, rows: Tensor) -> Tensor:
        """Flatten rows ``[B, *]``."""
        return rows.reshape(len(rows), self.size)


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
    inputs: int, widths: Sequence[int], *, activation_name: Activation, dropout: float
) -> list[nn.Sequential]:
    """Return the same layers one by one, the first of them over the flattened row."""
    layers = []
    for before, width in zip([inputs, *widths], widths, strict=False):
        layers.append(dense(before, [width], activation_name=activation_name, dropout=dropout))
    return [nn.Sequential(Flat(inputs), *layers[0]), *layers[1:]]
