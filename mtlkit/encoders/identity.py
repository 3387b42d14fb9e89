"""The ``identity`` encoder: the features are the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from mtlkit.encoders.base import Encoder
from mtlkit.specs import FeatureSpec, InputSpec

__all__ = ["Identity"]


class Identity(Encoder):
    """The features are the rows: for features that another network has made already.

    It has nothing to train, so tasks share nothing by it: strategies that compare gradients at shared weights, or at
    the features, have nothing to measure. In an architecture, what follows the encoder may still be shared.

    Args:
        inputs: The shape of one row, which is that of the features; parts become features of the same names.

    Raises:
        ValueError: If a row, or a part of it, holds categories or tokens, which are no features.
    """

    row_by_row: ClassVar[bool] = True

    def __init__(self, inputs: InputSpec) -> None:
        super().__init__()
        self.features = _features(inputs)
        self.whole = nn.Identity()

    def stages(self) -> Sequence[nn.Module]:
        return [self.whole]


def _features(inputs: InputSpec) -> FeatureSpec:
    if inputs.categories:
        raise ValueError(
            f"identity takes features, and a row here holds whole numbers of shape {inputs}, which may be categories; "
            "the tabular and transformer encoders embed them. Where they are numbers, let the source give "
            "floating-point rows"
        )
    return FeatureSpec(inputs.shape, {name: _features(part) for name, part in inputs.parts.items()})
