"""Runs over sources whose rows differ in shape, which stems bring to one encoder."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mtlkit
from mtlkit.errors import ConfigError, DataError, PluginError


@dataclass(frozen=True)
class Images(mtlkit.Source):
    """Squares that are bright on one side, of a size in pixels."""

    pixels: int

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(self.pixels)
        side = torch.randint(2, (100,), generator=generator)
        images = 0.1 * torch.randn(100, 1, self.pixels, self.pixels, generator=generator)
        half = self.pixels // 2
        images[side == 0, :, :, :half] += 1
        images[side == 1, :, :, half:] += 1
        return {"train": mtlkit.Split(images, {"side": side, "distance": side[:, None].float()})}


@pytest.fixture(name="given")
def fixture_given(toy):
    class Small(toy.Side):
        """Which side of a small image."""

        def source(self):
            return Images(6)

    class Large(toy.Distance):
        """The same of a larger one, as a number."""

        def source(self):
            return Images(10)

    return {"small": Small, "large": Large}


RESIZE = {"name": "resize", "size": [6, 6]}


def settings(stem, **others):
    tasks = ["small", {"name": "large", "stem": stem}]
    return {"tasks": tasks, "encoder": {"name": "cnn", "channels": [4], "layers": [8]}, **others}


@pytest.mark.parametrize("stem", [RESIZE, [RESIZE], ["flatten", {"name": "linear", "shape": [1, 6, 6]}]])
@pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda"])
def test_two_shapes_meet_in_one_encoder(train, given, stem, strategy):
    run = train(tasks_given=given, **settings(stem, strategy=strategy, training={"steps": 60}))
    assert run.results["small"].metrics["accuracy"] > 0.9
    assert run.results["large"].metrics["mse"] < 0.15


def test_a_learned_stem_is_trained_and_kept(train, given, weights, registry_with):
    chosen = settings(["flatten", {"name": "linear", "shape": [1, 6, 6]}])
    whole = train(run={"name": "whole"}, tasks_given=given, **chosen)
    again = train(run={"name": "again"}, tasks_given=given, **chosen)
    assert weights(whole.folder) == weights(again.folder)
    names = [name for name in load_file(whole.folder / "best" / "weights.safetensors") if name.startswith("stems.")]
    assert names == ["stems.task_large.stems.1.map.bias", "stems.task_large.stems.1.map.weight"]
    evaluated = mtlkit.evaluate(whole.folder, registry=registry_with(**given))[1]
    assert evaluated == whole.results


def test_without_a_stem_both_shapes_are_shown(train, given):
    with pytest.raises(DataError) as caught:
        train(tasks_given=given, **settings(None))
    assert "'small': (1, 6, 6); 'large': (1, 10, 10)" in str(caught.value)
    assert "tasks[].stem" in str(caught.value)


def test_a_stem_that_makes_another_shape_is_shown_with_what_it_was_given(train, given):
    with pytest.raises(
        DataError, match=r"'small': \(1, 6, 6\); 'large': \(1, 5, 5\) \(made of \(1, 10, 10\) by its stem"
    ):
        train(tasks_given=given, **settings({"name": "resize", "size": [5, 5]}))


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ("resise", r"Unknown stem 'resise' at tasks\[1\].stem.*Did you mean 'resize'"),
        ({"name": "resize", "sise": [2, 2]}, r"Unknown key 'sise' at tasks\[1\].stem.sise.*Did you mean 'size'"),
        (["flatten", {"name": "linear"}], r"Missing key 'shape' at tasks\[1\].stem\[1\]"),
        ({"name": "resize", "size": [0, 2]}, r"Cannot use 0 \(integer\) at tasks\[1\].stem.size\[0\]"),
        (["flatten", RESIZE], r"Resize takes images of shape.*a row here is \(100,\) at tasks\[1\].stem\[1\]"),
        ([3], r"Cannot use 3 \(integer\) at tasks\[1\].stem\[0\]"),
    ],
)
def test_a_wrong_stem_is_told_of_in_its_place(train, given, stem, message):
    with pytest.raises(ConfigError, match=message):
        train(tasks_given=given, **settings(stem))


def test_tasks_that_share_a_source_share_its_stem(train, given):
    tasks = [{"name": "small", "label": "one"}, {"name": "small", "label": "two", "stem": "flatten"}]
    with pytest.raises(ConfigError, match=r"share its stem, and 'one' and 'two' differ at tasks\[1\]"):
        train(tasks_given=given, tasks=tasks)


def test_a_source_may_declare_its_stem_and_a_configuration_name_another(train, given):
    class Declared(Images):
        def stem(self, inputs):
            return mtlkit.stems.Resize(inputs, size=(6, 6))

    class Large(given["large"]):
        """Of a source with a stem."""

        def source(self):
            return Declared(10)

    run = train(tasks_given={**given, "large": Large}, **settings(None))
    assert run.results["large"].rows
    stem = {"name": "resize", "size": [3, 3]}
    with pytest.raises(DataError, match=r"'large': \(1, 3, 3\)"):
        train(tasks_given={**given, "large": Large}, **settings(stem, run={"name": "another"}))
    with pytest.raises(DataError, match=r"'large': \(1, 10, 10\)"):  # none at all
        train(tasks_given={**given, "large": Large}, **settings([], run={"name": "another"}))


def test_a_declared_stem_has_to_say_what_it_makes(train, given):
    class Silent(Images):
        def stem(self, inputs):
            return nn.Identity()

    class Large(given["large"]):
        """Of a source with a stem that says nothing."""

        def source(self):
            return Silent(10)

    with pytest.raises(PluginError, match="The stem of the source of task 'large' says in its attribute 'rows'"):
        train(tasks_given={**given, "large": Large}, **settings(None))
