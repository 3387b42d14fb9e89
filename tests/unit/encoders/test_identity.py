"""The identity encoder passes rows on."""

from __future__ import annotations

import pytest
import torch

from mtlkit import FeatureSpec, InputSpec
from mtlkit.encoders import Identity

PARTS = InputSpec(parts={"image": InputSpec((1, 2, 2)), "sound": InputSpec((3,))})


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (1, 2, 2)])
def test_features_are_the_rows(shape):
    encoder, rows = Identity(InputSpec(shape)), torch.randn(2, *shape)
    assert encoder(rows) is rows
    assert encoder.features == FeatureSpec(shape)
    assert list(encoder.parameters()) == []


def test_parts_are_features_of_the_same_names():
    encoder = Identity(PARTS)
    rows = {"image": torch.zeros(2, 1, 2, 2), "sound": torch.zeros(2, 3)}
    assert encoder(rows) is rows
    assert encoder.features == FeatureSpec(parts={"image": FeatureSpec((1, 2, 2)), "sound": FeatureSpec((3,))})


@pytest.mark.parametrize("inputs", [InputSpec((2,), (3, 3)), InputSpec(parts={"words": InputSpec((2,), (3, 3))})])
def test_categories_are_no_features(inputs):
    with pytest.raises(ValueError, match=r"identity takes features, and .* whole numbers of shape \(2,\)"):
        Identity(inputs)
