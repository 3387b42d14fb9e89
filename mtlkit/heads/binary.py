"""The binary head: one logit for each row."""

from __future__ import annotations

from collections.abc import Sequence

from mtlkit.heads.regression import Regression
from mtlkit.layers import Activation
from mtlkit.specs import FeatureSpec

__all__ = ["Binary"]


class Binary(Regression):
    """The logit of one yes or no for each row ``[B]``, for a sigmoid cross-entropy.

    Args:
        features: The shape of one row of features.
        layers: The width of each hidden layer; none by default.
        activation: What follows each hidden layer.
        dropout: The probability of dropping a hidden unit, in [0, 1).
    """

    def __init__(
        self,
        features: FeatureSpec,
        *,
        layers: Sequence[int] = (),
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(features, (), layers=layers, activation=activation, dropout=dropout)
