"""The ``mlp`` encoder: a stack of fully connected layers over the flattened row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from mtlkit.encoders.base import Encoder
from mtlkit.layers import Activation, Fraction, Widths, dense_layers
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["MLP"]


class MLP(Encoder):
    """Fully connected layers over the flattened row.

    Args:
        inputs: The shape of one row; any shape, it is flattened. Parts stand side by side, in their order.
        layers: The width of each layer; the last one is the number of features.
        activation: What follows each layer.
        dropout: The probability of dropping a unit after each activation, in [0, 1).

    Raises:
        ValueError: If a row, or a part of it, holds categories or tokens: as numbers they would say what they are not.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(
        self,
        inputs: InputSpec,
        *,
        layers: Widths = (128, 128),
        activation: Activation = "relu",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        whole = [name for name, part in (inputs.parts or {"": inputs}).items() if part.categories]
        if whole:
            told = f"the part {whole[0]!r} of a row" if whole[0] else "a row"
            raise ValueError(
                f"mlp takes numbers, and {told} here holds whole numbers of shape "
                f"{(inputs.parts or {'': inputs})[whole[0]]}, which may be categories; the tabular and transformer "
                "encoders embed them. Where they are numbers, let the source give floating-point rows"
            )
        made = dense_layers(inputs.size, layers, activation_name=activation, dropout=dropout, parts=list(inputs.parts))
        self.layers = nn.ModuleList(made)
        self.features = FeatureSpec((layers[-1],))

    def stages(self) -> Sequence[nn.Module]:
        return list(self.layers)
