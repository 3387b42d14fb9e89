"""The size of a row of features for the heads that flatten it."""

from __future__ import annotations

from mtlkit.specs import FeatureSpec

__all__ = ["flat_size"]


def flat_size(features: FeatureSpec, head: str) -> int:
    """Return the number of features in a row that is one tensor.

    Args:
        features: The shape of one row of features.
        head: What the head is called.

    Raises:
        ValueError: If the features are several by name.
    """
    if features.parts:
        raise ValueError(
            f"a {head} head takes features that are one tensor, and these are {features}; take the one it is to learn "
            "from in a head of your own, or let the encoder make one"
        )
    return features.size
