"""The layers that encoders and heads are both made of, by the names that a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

__all__ = ["Activation", "Fraction", "Positive", "activation", "dense"]

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


def dense(inputs: int, widths: Sequence[int], *, activation_name: Activation, dropout: float) -> nn.Sequential:
    """Return linear layers of the given widths, each followed by the activation and by dropout."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), activation(activation_name)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers)
