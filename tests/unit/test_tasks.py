"""Tasks of the usual kinds: a subclass with rows and a target keeps every promise, and its loss is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional as F

import mtlkit
from mtlkit import FeatureSpec, heads, tasks
from mtlkit.testing import conformance

ROWS = 60
MISSING = -100


@dataclass(frozen=True)
class Rows(mtlkit.Source):
    """Small images with a target of each kind, each learnable from the image; some entries have no label."""

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(ROWS, 1, 4, 4, generator=generator)
        pixels = (images[:, 0] > 0).long() + (images[:, 0] > 1).long()
        tags = pixels.flatten(1)[:, :6].clone()
        labels = (images.flatten(1)[:, :3] > 0).long()
        for target in (pixels, tags, labels):
            target[torch.rand(target.shape, generator=generator) < 0.1] = MISSING
            target[::7] = MISSING  # nothing at all in these rows
        level = images.mean((1, 2, 3))
        targets = {
            "kind": (level > 0).long() + (level > 0.2).long(),
            "bright": (level > 0).long(),
            "level": level,
            "corners": images[:, 0, ::3, ::3].clone(),
            "labels": labels,
            "tags": tags,
            "pixels": pixels,
            "image": images.clone(),
        }
        return {"train": mtlkit.Split(images, targets)}


class OfRows:
    """What they have in common."""

    def source(self):
        return Rows()


class Kind(OfRows, tasks.Classification):
    """One of three."""

    target, n_classes = "kind", 3


class HiddenKind(Kind):
    """The same with a hidden layer."""

    hidden_layers = (8,)


class Bright(OfRows, tasks.Binary):
    """Yes or no."""

    target = "bright"


class Level(OfRows, tasks.Regression):
    """A number."""

    target = "level"


class Corners(OfRows, tasks.Regression):
    """Four numbers in a square."""

    target, shape = "corners", (2, 2)


class Labels(OfRows, tasks.MultiLabel):
    """Three yes or no."""

    target, n_labels = "labels", 3


class Tags(OfRows, tasks.Tagging):
    """One of three at six places."""

    target, n_classes = "tags", 3


class Pixels(OfRows, tasks.Segmentation):
    """One of three at each pixel."""

    target, n_classes, size = "pixels", 3, (4, 4)


class Image(OfRows, tasks.Reconstruction):
    """The image."""

    target, shape = "image", (1, 4, 4)


EVERY = [Kind, HiddenKind, Bright, Level, Corners, Labels, Tags, Pixels, Image]

test_kind = conformance(Kind)
test_bright = conformance(Bright)
test_corners = conformance(Corners)
test_labels = conformance(Labels)
test_tags = conformance(Tags)
test_pixels = conformance(Pixels)
test_image = conformance(Image)


def rows(n, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def spec_of(task):
    return {Tags: FeatureSpec((6, 5)), Pixels: FeatureSpec((5, 2, 2))}.get(type(task), FeatureSpec((5,)))


@pytest.mark.parametrize("kind", EVERY)
def test_each_kind_learns(kind):
    """A few steps on fixed features lower the loss by the head alone."""
    task = kind()
    split = Rows().splits()["train"]
    target = split.targets[task.target]
    labelled = task.labelled(target)
    target = target[labelled]
    spec = spec_of(task)
    head = seeded(lambda: task.head(spec))
    z = rows(len(target), *spec.shape)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = task.loss(head(z), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for metric in task.metrics().values():
        metric.update(head(z).detach(), target)
        assert math.isfinite(float(metric.compute()))
        assert metric.higher_is_better is not None


class TestWhatIsMissing:
    def test_entries_without_a_label_are_no_part_of_the_loss(self):
        for task, output in (
            (Labels(), rows(4, 3)),
            (Tags(), rows(4, 3, 6)),
            (Pixels(), rows(4, 3, 4, 4)),
        ):
            target = Rows().splits()["train"].targets[task.target][1:5]
            known = target != MISSING
            assert not known.all()
            assert known.flatten(1).any(1).all()
            if task.target == "labels":
                entries = F.binary_cross_entropy_with_logits(output[known], target[known].float())
            else:
                entries = F.cross_entropy(output.movedim(1, -1)[known], target[known])
            torch.testing.assert_close(task.loss(output, target), entries)

    def test_a_row_takes_part_where_any_entry_has_a_label(self):
        for task in (Labels(), Tags(), Pixels()):
            target = Rows().splits()["train"].targets[task.target]
            expected = torch.tensor([any(value != MISSING for value in row.flatten().tolist()) for row in target])
            assert torch.equal(task.labelled(target), expected)
            assert not expected[::7].any()

    def test_metrics_pass_over_them(self):
        task = Tags()
        metric = task.metrics()["accuracy"]
        output = F.one_hot(torch.tensor([[0, 1, 2, 0, 1, 2]]), 3).float().movedim(2, 1)
        metric.update(output, torch.tensor([[0, 1, 0, MISSING, MISSING, MISSING]]))
        assert metric.compute().item() == pytest.approx(2 / 3)


class TestKindsOfLoss:
    def test_each_says_what_its_loss_is(self):
        kinds = {kind.__name__: kind().loss_kind for kind in EVERY}
        assert {name for name, kind in kinds.items() if kind == "regression"} == {"Level", "Corners", "Image"}
        assert set(kinds.values()) == {"regression", "classification"}

    def test_binary_is_a_classification_of_two(self):
        z, target = rows(5), torch.tensor([0, 1, 1, 0, 1])
        both = torch.stack([torch.zeros(5), z], 1)  # the logit of yes, against that of no
        torch.testing.assert_close(Bright().loss(z, target), F.cross_entropy(both, target))


class TestHeads:
    def test_regression_has_the_shape_of_the_target(self):
        for shape in [(), (1,), (2, 3)]:
            head = heads.Regression(FeatureSpec((4,)), shape, layers=(5,))
            assert head(rows(6, 4)).shape == (6, *shape)
        assert heads.Binary(FeatureSpec((2, 2)))(rows(3, 2, 2)).shape == (3,)

    def test_tagging_computes_the_same_at_each_place(self):
        head = seeded(lambda: heads.Tagging(FeatureSpec((3, 4)), 2, layers=(5,), activation="tanh"))
        z = rows(2, 3, 4)
        made = head(z)
        assert made.shape == (2, 2, 3)
        for place in range(3):
            hidden = torch.tanh(z[:, place] @ head.hidden[0].weight.T + head.hidden[0].bias)
            torch.testing.assert_close(made[:, :, place], hidden @ head.output.weight.T + head.output.bias)

    def test_maps_of_several_scales_are_merged_at_the_largest(self):
        spec = FeatureSpec(parts={"fine": FeatureSpec((2, 4, 4)), "coarse": FeatureSpec((3, 2, 2))})
        head = seeded(lambda: heads.Segmentation(spec, 5, (8, 8), channels=4, activation="identity"))
        z = {"fine": rows(2, 2, 4, 4), "coarse": rows(2, 3, 2, 2)}
        fine, coarse = (conv(part) for conv, part in zip(head.merged.convolutions, z.values(), strict=True))
        coarse = F.interpolate(coarse, (4, 4), mode="bilinear", align_corners=False)
        convolved = head.hidden[0](fine + coarse)
        torch.testing.assert_close(
            head(z), F.interpolate(head.output(convolved), (8, 8), mode="bilinear", align_corners=False)
        )

    def test_reconstruction_is_by_convolutions_where_features_are_maps(self):
        maps, vector, image = FeatureSpec((6, 2, 2)), FeatureSpec((6,)), (1, 4, 4)
        assert heads.Reconstruction(maps, image, layers=(3,))(rows(2, 6, 2, 2)).shape == (2, *image)
        assert heads.Reconstruction(vector, image)(rows(2, 6)).shape == (2, *image)
        assert heads.Reconstruction(maps, (7,))(rows(2, 6, 2, 2)).shape == (2, 7)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: heads.Tagging(FeatureSpec((5,)), 2), r"takes features of shape \(places, features\).*\(5,\)"),
            (lambda: heads.Segmentation(FeatureSpec((5,)), 2, (4, 4)), r"a segmentation head takes.*\(5,\)"),
            (lambda: heads.Linear(FeatureSpec(parts={"a": FeatureSpec((2,))}), 2), r"a linear head.*{a: \(2,\)}"),
            (lambda: heads.Regression(FeatureSpec(parts={"a": FeatureSpec((2,))})), r"a mlp head.*one tensor"),
            (lambda: heads.Reconstruction(FeatureSpec(parts={"a": FeatureSpec((2,))}), (3,)), "images from maps"),
        ],
    )
    def test_features_that_do_not_fit_are_refused(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()
