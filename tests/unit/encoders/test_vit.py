"""The vit encoder is a transformer over the patches of an image."""

from __future__ import annotations

import pytest
import torch

from mtlkit import FeatureSpec, InputSpec
from mtlkit.encoders import ViT
from mtlkit.encoders.attention import grid_sinusoids, sinusoids

SMALL = {"width": 8, "depth": 2, "heads": 2, "expansion": 2}


@pytest.mark.parametrize("positions", ["learned", "sin-cos"])
@pytest.mark.parametrize("pool", ["mean", "class", "none"])
def test_it_computes_what_the_paper_says(stirred, numbers, attended, pool, positions):
    encoder = stirred(ViT, InputSpec((2, 6, 4)), patch=(3, 2), pool=pool, positions=positions, **SMALL)
    images = numbers(3, 2, 6, 4)
    weight, bias = encoder.patches.project.weight, encoder.patches.project.bias
    places = encoder.patches.places if positions == "learned" else grid_sinusoids(2, 2, 8).double()
    for image, features in zip(images, encoder(images), strict=True):
        patches = [image[:, i : i + 3, j : j + 2] for i in (0, 3) for j in (0, 2)]
        vectors = [torch.einsum("chw,dchw->d", patch, weight) + bias for patch in patches]
        if pool == "class":
            vectors.insert(0, encoder.patches.token[0, 0])
            places = places if positions == "learned" else torch.cat([torch.zeros(1, 8), places])[-5:]
        sequence = attended(torch.stack(vectors) + places, encoder)
        expected = {"mean": sequence.mean(0), "class": sequence[0], "none": sequence}[pool]
        torch.testing.assert_close(features, expected)
    assert encoder.features == FeatureSpec((4, 8) if pool == "none" else (8,))


def test_it_has_as_many_parameters_as_is_published():
    with torch.device("meta"):
        base = ViT(InputSpec((3, 224, 224)), width=768, depth=12, heads=12, pool="class")
    assert sum(p.numel() for p in base.parameters()) == 86_567_656 - 1000 * (768 + 1)  # ViT-B/16, less its classifier


@pytest.mark.parametrize(
    ("sides", "patch"),
    [
        ((224, 224), (16, 16)),
        ((112, 112), (16, 16)),
        ((64, 64), (8, 8)),
        ((32, 32), (4, 4)),
        ((28, 28), (4, 4)),
        ((16, 16), (2, 2)),
        ((8, 8), (1, 1)),
        ((80, 100), (4, 4)),
        ((7, 9), (1, 1)),
        ((2, 2), (1, 1)),
    ],
)
def test_patches_are_chosen_by_the_size_of_the_image(sides, patch):
    encoder = ViT(InputSpec((1, *sides)), pool="none", **SMALL)
    assert encoder.patches.project.kernel_size == patch
    assert encoder.features.shape[0] == sides[0] // patch[0] * (sides[1] // patch[1])


def test_without_places_the_order_of_patches_does_not_matter(stirred, numbers):
    encoder = stirred(ViT, InputSpec((1, 4, 4)), patch=2, **SMALL)
    images = numbers(2, 1, 4, 4)
    turned = torch.cat([images[:, :, 2:], images[:, :, :2]], 2)
    assert not torch.allclose(encoder(images), encoder(turned))
    encoder.patches.places.data.zero_()
    torch.testing.assert_close(encoder(images), encoder(turned))


def test_codes_of_places_are_those_of_the_row_and_of_the_column():
    codes = grid_sinusoids(3, 5, 8).reshape(3, 5, 8)
    for row in range(3):
        for column in range(5):
            expected = torch.cat([sinusoids(3, 4)[row], sinusoids(5, 4)[column]])
            torch.testing.assert_close(codes[row, column], expected)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((8,), {}, r"vit takes images of shape \(channels, height, width\), and a row here has shape \(8,\)"),
        ((1, 8, 9), {"patch": 4}, "an image of width 9 is not made of whole patches of width 4; it is of .* 1, 3, 9"),
        ((1, 8, 9), {"patch": (3, 3)}, "an image of height 8 is not made of whole patches of height 3"),
        ((1, 8, 8), {"width": 10, "heads": 3}, "width 10 cannot be split among 3 heads; it can among 1, 2, 5, 10"),
        ((1, 8, 8), {"width": 6, "positions": "sin-cos"}, "need a width in fours; received 6"),
    ],
)
def test_what_does_not_divide_is_refused(shape, options, said):
    with pytest.raises(ValueError, match=said):
        ViT(InputSpec(shape), **SMALL | options)
