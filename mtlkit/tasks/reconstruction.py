"""Reconstruction: the row itself, or one like it, from its features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from mtlkit import heads
from mtlkit.specs import FeatureSpec
from mtlkit.tasks.regression import Regression

__all__ = ["Reconstruction"]


class Reconstruction(Regression):
    """The row itself, or one like it, such as the image without its noise: squared error.

    Attributes:
        shape: The shape of one row's target.
        hidden_layers: The width of each hidden layer of the head.
    """

    shape: Sequence[int]
    hidden_layers: Sequence[int] = (128,)

    def head(self, features: FeatureSpec) -> nn.Module:
        """Return layers, or convolutions where the features are maps, that end in a row ``[B, *shape]``."""
        return heads.Reconstruction(features, self.shape, layers=self.hidden_layers)
