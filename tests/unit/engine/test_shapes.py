"""Runs over rows of several parts, features of several names, encoders that look at the rows, and penalties."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mtlkit
from mtlkit.architectures import HardSharing


@dataclass(frozen=True)
class Table(mtlkit.Source):
    """Numbers far from 0 and a category in each row; some labels are missing."""

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(0)
        numbers = 100 + 5 * torch.randn(90, 2, generator=generator)
        categories = torch.randint(6, (90, 1), generator=generator)
        side = (numbers[:, 0] > 100).long()
        distance = (numbers[:, :1] - 100) / 5 + categories
        distance[::3] = torch.nan
        inputs = {"numbers": numbers, "categories": categories}
        return {"train": mtlkit.Split(inputs, {"side": side, "distance": distance})}


class Scales(mtlkit.Encoder):
    """Features of two names from the parts of a row, the numbers normalised by what the training rows say."""

    def __init__(self, inputs: mtlkit.InputSpec) -> None:
        super().__init__()
        (categories,) = inputs.parts["categories"].categories
        self.embed = nn.Embedding(categories, 4)
        self.layer = nn.Linear(inputs.parts["numbers"].size + 4, 8)
        self.register_buffer("mean", torch.zeros(inputs.parts["numbers"].size))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        named = {"coarse": mtlkit.FeatureSpec((3,)), "fine": mtlkit.FeatureSpec((5,))}
        self.features = mtlkit.FeatureSpec(parts=named)

    def prepare(self, rows):
        self.mean.copy_(rows["numbers"].mean(0))
        self.seen.fill_(len(rows["numbers"]))

    def forward(self, inputs):
        embedded = self.embed(inputs["categories"]).flatten(1)
        z = torch.tanh(self.layer(torch.cat([inputs["numbers"] - self.mean, embedded], 1)))
        return {"coarse": z[:, :3], "fine": z[:, 3:]}


class Joined(nn.Module):
    """A head over some of the named features."""

    def __init__(self, features: mtlkit.FeatureSpec, names: list[str], outputs: int) -> None:
        super().__init__()
        self.names = names
        self.output = nn.Linear(sum(features.parts[name].size for name in names), outputs)

    def forward(self, features):
        return self.output(torch.cat([features[name] for name in self.names], 1))


class Paying(HardSharing):
    """Its own parameter pays for its distance from 3, and no loss reaches it."""

    def __init__(self, make_encoder, n_tasks: int) -> None:
        super().__init__(make_encoder, n_tasks)
        self.level = nn.Parameter(torch.zeros(()))

    def penalty(self):
        return (self.level - 3).square()


@pytest.fixture(name="given")
def fixture_given(toy):
    class Side(toy.Side):
        """Which side."""

        def source(self):
            return Table()

        def head(self, features):
            return Joined(features, ["coarse"], 2)

    class Distance(toy.Distance):
        """How far."""

        def source(self):
            return Table()

        def head(self, features):
            return Joined(features, ["coarse", "fine"], 1)

    return {"side": Side, "distance": Distance, "scales": Scales, "paying": Paying}


@pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda-ub", "mgda", "graddrop"])
def test_a_run_over_parts_and_named_features(train, records, given, strategy):
    run = train(tasks_given=given, encoder={"name": "scales"}, strategy=strategy, training={"steps": 40})
    losses = [record["losses"] for record in records(run.folder, "step")]
    assert sum(losses[-1].values()) < sum(losses[0].values())
    weights = load_file(run.folder / "best" / "weights.safetensors")
    assert weights["architecture.encoder.mean"] == pytest.approx([100, 100], abs=3)
    assert weights["architecture.encoder.seen"] == 63  # of 90 rows, those that are left to train on


def test_a_run_over_parts_goes_on_bit_for_bit(train, given, weights):
    settings = {"tasks_given": given, "encoder": {"name": "scales"}}
    whole = train(run={"name": "whole"}, **settings)
    again = train(run={"name": "again"}, **settings)
    assert weights(whole.folder) == weights(again.folder)


def test_an_architecture_pays_its_penalty_whatever_the_strategy(train, given):
    levels = []
    for strategy, accumulate in (("fixed", 1), ("gradnorm", 1), ("fixed", 3)):
        run = train(
            run={"name": f"{strategy}-{accumulate}"},
            tasks_given={"paying": given["paying"]},
            architecture="paying",
            strategy=strategy,
            optimizer={"name": "sgd", "lr": 0.25},
            training={"steps": 1, "accumulate": accumulate},
        )
        levels.append(float(load_file(run.folder / "best" / "weights.safetensors")["architecture.level"]))
    assert levels == pytest.approx([1.5, 1.5, 1.5])  # 0 - 0.25 * d/dlevel (level - 3)^2
