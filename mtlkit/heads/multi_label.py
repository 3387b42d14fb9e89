"""The multi-label head: a logit for each of several labels, of which a row may have any."""

from __future__ import annotations

from mtlkit.heads.mlp import MLP

__all__ = ["MultiLabel"]


class MultiLabel(MLP):
    """A logit for each of several labels ``[B, outputs]``, of which a row may have any number: a sigmoid for each.

    Args:
        features: The shape of one row of features.
        outputs: The number of labels.
        layers: The width of each hidden layer.
        activation: What follows each hidden layer.
        dropout: The probability of dropping a hidden unit, in [0, 1).
    """
