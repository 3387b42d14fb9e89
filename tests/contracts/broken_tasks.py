"""Tasks with one defect each, and some that are odd and sound. Other processes import this by its name."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy

import mtlkit
from mtlkit import heads
from mtlkit.data import MapSplit, StreamSplit


@dataclass(frozen=True)
class Rows(mtlkit.Source):
    """Four measurements, a class and a number of each row; then something is done to them."""

    change: Callable[[dict[str, mtlkit.Split]], Any]

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(0)
        splits = {}
        for name, size in {"train": 48, "test": 16}.items():
            x = torch.randn(size, 4, generator=generator)
            splits[name] = mtlkit.Split(x, {"colour": (x[:, 0] > 0).long(), "price": x.sum(1, keepdim=True)})
        changed = self.change(splits)
        return splits if changed is None else changed


class Colour(mtlkit.Task):
    """A sound classification."""

    loss_kind = "classification"
    target = "colour"
    n_classes = 2

    @staticmethod
    def change(splits):
        """Leave the rows as they are."""

    def source(self):
        return Rows(self.change)

    def head(self, features):
        return heads.Linear(features, 2)

    def loss(self, output, target):
        return F.cross_entropy(output, target)

    def metrics(self):
        return {"accuracy": MulticlassAccuracy(2, average="micro")}


class Price(mtlkit.Task):
    """A sound regression."""

    loss_kind = "regression"
    target = "price"

    @staticmethod
    def change(splits):
        """Leave the rows as they are."""

    def source(self):
        return Rows(self.change)

    def head(self, features):
        return heads.MLP(features, 1, layers=[8])

    def loss(self, output, target):
        return F.mse_loss(output, target)

    def metrics(self):
        return {"mse": MeanSquaredError()}


# --- odd, and sound ---


class HalfLabelledColour(Colour):
    """A classification of every other row."""

    @staticmethod
    def change(splits):
        for split in splits.values():
            split.targets["colour"][::2] = -100


class HalfLabelledPrice(Price):
    """A regression of every other row."""

    @staticmethod
    def change(splits):
        for split in splits.values():
            split.targets["price"][::2] = math.nan


class SoftColour(Colour):
    """A classification by probabilities, of integer inputs."""

    @staticmethod
    def change(splits):
        return {
            name: mtlkit.Split((split.inputs * 10).long(), {"colour": split.inputs[:, :2].softmax(1)})
            for name, split in splits.items()
        }

    def metrics(self):
        return {"mse": MeanSquaredError()}


class Segmentation(Colour):
    """A classification of pixels, of which some have no class; its head needs maps of features."""

    missing = -1

    @staticmethod
    def change(splits):
        for split in splits.values():
            classes = (split.inputs[:, None, :] > 0).long().repeat(1, 4, 1)
            classes[:, 0, 0] = -1
            split.targets["colour"] = classes

    def labelled(self, target):
        return (target != self.missing).flatten(1).any(1)

    def head(self, features):
        channels, _, _ = features.shape
        return nn.Conv2d(channels, 2, 1)

    def loss(self, output, target):
        return F.cross_entropy(output, target, ignore_index=self.missing)

    def metrics(self):
        return {"accuracy": MulticlassAccuracy(2, average="micro", ignore_index=self.missing)}


class Weighted(Colour):
    """Classes that count differently; a head that is frozen in part, drops out, and begins at zero."""

    def __init__(
        self, *, weights: tuple[float, ...] = (1, 3), rate: float = 0.5, cellar: Path = Path("cellar")
    ) -> None:
        self.weights, self.rate, self.cellar = weights, rate, cellar.name

    def head(self, features):
        head = nn.Sequential(nn.Linear(features.size, 8), nn.LayerNorm(8), nn.Dropout(self.rate), nn.Linear(8, 2))
        head[0].requires_grad_(requires_grad=False)
        nn.init.zeros_(head[3].weight)
        return head

    def loss(self, output, target):
        return F.cross_entropy(output, target, torch.tensor(self.weights, dtype=output.dtype))


class OneMetric(Colour):
    """The same metric is handed out each time, and a run begins it anew."""

    def __init__(self):
        self.accuracy = MulticlassAccuracy(2, average="micro")

    def metrics(self):
        return {"accuracy": self.accuracy}


@dataclass(frozen=True)
class Shelf:
    """The rows of a split, one by one."""

    split: mtlkit.Split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return self.split.inputs[index], {name: column[index] for name, column in self.split.targets.items()}

    def begun_at(self, number):
        return map(self.__getitem__, range(number, len(self)))


class OneByOne(Colour):
    """Rows that are read one by one."""

    @staticmethod
    def change(splits):
        return {name: MapSplit(Shelf(split)) for name, split in splits.items()}


class Noisy(Price):
    """Rows that are read one by one, with noise that is another each time."""

    @staticmethod
    def change(splits):
        class Cloudy(Shelf):
            def __getitem__(self, index):
                inputs, targets = super().__getitem__(index)
                return inputs + torch.rand(4) + random.random(), targets  # noqa: S311

        return {name: MapSplit(Cloudy(split), random=True) for name, split in splits.items()}


class Poured(Price):
    """Rows that come one after another, of which the test is carved."""

    @staticmethod
    def change(splits):
        return {"train": StreamSplit(Shelf(splits["train"]).begun_at, shuffle=7)}


# --- what is not even begun ---


class Crashes(Colour):
    """The constructor has a bug."""

    def __init__(self):
        raise KeyError("grapes")


class NoSource(Colour):
    """The source is a function."""

    def source(self):
        return dict


class List(Colour):
    """The splits are a list."""

    @staticmethod
    def change(splits):
        return list(splits.values())


class Pair(Colour):
    """A split is a pair."""

    @staticmethod
    def change(splits):
        return {"train": (splits["train"].inputs, splits["train"].targets)}


class NoTrain(Colour):
    """All rows are for the test."""

    @staticmethod
    def change(splits):
        del splits["train"]


# --- rows ---


class AnotherName(Colour):
    """A split has a name that there is not."""

    @staticmethod
    def change(splits):
        splits["dev"] = splits.pop("test")


class Few(Colour):
    """The one training row is too few to carve a validation split from."""

    @staticmethod
    def change(splits):
        splits["train"] = splits["train"].take(torch.tensor([0]))


class Leak(Colour):
    """Three training rows are test rows too."""

    @staticmethod
    def change(splits):
        train, test = splits["train"], splits["test"]
        test.inputs[:3] = train.inputs[:3]
        test.targets["colour"][:3] = train.targets["colour"][:3]


class Spilled(Price):
    """The tenth row that is read has lost a measurement."""

    @staticmethod
    def change(splits):
        class Leaking(Shelf):
            def __getitem__(self, index):
                inputs, targets = super().__getitem__(index)
                return inputs[: 3 if index == 9 else 4], targets

        return {name: MapSplit(Leaking(split)) for name, split in splits.items()}


class Cloudy(Price):
    """Rows have noise, and nothing says that they change."""

    @staticmethod
    def change(splits):
        noise = np.random.default_rng()

        class Changing(Shelf):
            def __getitem__(self, index):
                inputs, targets = super().__getitem__(index)
                return inputs + noise.random(), targets

        return {name: MapSplit(Changing(split)) for name, split in splits.items()}


class Shaken(Price):
    """Rows draw from torch's generator, and go back to where it was seeded first."""

    @staticmethod
    def change(splits):
        class Drawing(Shelf):
            def __getitem__(self, index):
                torch.manual_seed(index)
                return super().__getitem__(index)

        return {name: MapSplit(Drawing(split)) for name, split in splits.items()}


class FromTheTop(Price):
    """A stream that begins with its first row wherever it is to begin."""

    @staticmethod
    def change(splits):
        shelf = Shelf(splits["train"])
        return {"train": StreamSplit(lambda _: shelf.begun_at(0), length=48)}


class Drift(Colour):
    """Each time that the rows are loaded, they are others."""

    def source(self):
        return DriftingRows(self.change)


@dataclass(frozen=True)
class DriftingRows(Rows):
    """Rows from a generator that the source holds."""

    def __post_init__(self):
        object.__setattr__(self, "generator", torch.Generator().manual_seed(0))

    def splits(self):
        splits = super().splits()
        splits["test"].inputs.add_(torch.randn(16, 4, generator=self.generator))
        return splits


class Hash(Colour):
    """The rows depend on the hash of a text, which Python makes anew in each process."""

    @staticmethod
    def change(splits):
        splits["train"].inputs.add_(torch.randn(48, 4, generator=torch.Generator().manual_seed(hash("grape"))))


class Registered(Colour):
    """The rows depend on what somebody has set before."""

    @staticmethod
    def change(splits):
        if "pytest" not in sys.modules:
            raise LookupError("the cellar is not open")


class Identity(Colour):
    """A source is equal to itself alone."""

    def source(self):
        return IdentityRows(self.change)


class IdentityRows(Rows):
    """Rows without equality by value."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Anything(Colour):
    """A source is equal to anything."""

    def source(self):
        return AnyRows(self.change)


class AnyRows(Rows):
    """Rows that are equal to everything."""

    def __eq__(self, other):
        return True

    __hash__ = None


class NaN(Colour):
    """A measurement is NaN."""

    @staticmethod
    def change(splits):
        splits["test"].inputs[1, 2] = math.nan


class HalfAColumn(Price):
    """The test rows have no price."""

    @staticmethod
    def change(splits):
        del splits["test"].targets["price"]


class NoColumn(Price):
    """There is no such target."""

    target = "vintage"


# --- what the task says of itself ---


class LossKind(Price):
    """A kind of loss that there is not."""

    loss_kind = "mse"


class Uncounted(Colour):
    """A classification among nobody knows how many."""

    n_classes = None


class OneClass(Price):
    """A class with nothing to tell it from."""

    n_classes = 1


class ThirdClass(Colour):
    """Three classes, of which two are told of."""

    @staticmethod
    def change(splits):
        splits["train"].targets["colour"][0] = 2

    def head(self, features):
        return heads.Linear(features, 3)

    def metrics(self):
        return {"accuracy": MulticlassAccuracy(3, average="micro")}


class AllLabelled(Colour):
    """Every row is said to have a label."""

    def labelled(self, target):
        return torch.ones(len(target), dtype=torch.bool)


class AllOrNothing(Colour):
    """One row without a label hides those of all others."""

    def labelled(self, target):
        return super().labelled(target).all().expand(len(target))


class LabelColumn(Colour):
    """Which rows have a label is said in a column."""

    def labelled(self, target):
        return super().labelled(target)[:, None]


class Unlabelled(Colour):
    """No training row has a label."""

    @staticmethod
    def change(splits):
        splits["train"].targets["colour"][:] = -100


# --- the head and the loss ---


class NoHead(Price):
    """The head is no module."""

    def head(self, features):
        return None


class OneHead(Colour):
    """The head is kept on the task."""

    def __init__(self):
        self.made = None

    def head(self, features):
        self.made = self.made or heads.Linear(features, 2)
        return self.made


class SharedHead(Colour):
    """Heads share a layer."""

    def __init__(self):
        self.layer = None

    def head(self, features):
        self.layer = self.layer or nn.Linear(features.size, 8)
        return nn.Sequential(self.layer, nn.Linear(8, 2))


class Unseeded(Colour):
    """The initial weights are of a generator that no one seeds."""

    def head(self, features):
        head = heads.Linear(features, 2)
        generator = torch.Generator()
        generator.seed()
        nn.init.normal_(head.output.weight, generator=generator)
        return head


class Restless(Colour):
    """The head drops out in evaluation mode."""

    def head(self, features):
        return nn.Sequential(heads.Linear(features, 2), Dropout())


class Dropout(nn.Module):
    """A dropout that never rests."""

    def forward(self, features):
        return F.dropout(features, 0.5)


class Stateful(Colour):
    """The head has weights that no checkpoint holds."""

    def head(self, features):
        return nn.Sequential(heads.Linear(features, 2), Scale())


class Scale(nn.Module):
    """A scale that is no buffer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.rand(2)

    def forward(self, outputs):
        return outputs * self.scale


class WideHead(Price):
    """Three outputs for a target of one column, which PyTorch would broadcast."""

    def head(self, features):
        return heads.Linear(features, 3)


class NarrowHead(Colour):
    """One logit for two classes."""

    def head(self, features):
        return heads.Linear(features, 1)


class PairHead(Colour):
    """The head makes a pair."""

    def head(self, features):
        return PairOf(heads.Linear(features, 2))


class PairOf(nn.Module):
    """What a module makes, twice."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, features):
        return self.module(features), self.module(features)


class VectorLoss(Price):
    """A loss for each row."""

    def loss(self, output, target):
        return F.mse_loss(output, target, reduction="none")


class FloatLoss(Price):
    """A loss that is no tensor."""

    def loss(self, output, target):
        return F.mse_loss(output, target).item()


class NaNLoss(Price):
    """A logarithm of what may be negative."""

    def loss(self, output, target):
        return F.mse_loss(output.log(), target)


class SumLoss(Price):
    """A sum over the rows."""

    def loss(self, output, target):
        return F.mse_loss(output, target, reduction="sum")


class OtherRows(Price):
    """Rows that pay something else than the loss says."""

    @staticmethod
    def row_losses(output, target):
        return (output - target).abs().mean(2)


class MeanRows(Price):
    """One loss for all rows, where each row's is asked for."""

    @staticmethod
    def row_losses(output, target):
        return F.mse_loss(output, target)


class BatchRows(Price):
    """What a row pays depends on the rows beside it."""

    def loss(self, output, target):
        return F.mse_loss(output, target)

    @staticmethod
    def row_losses(output, target):
        return F.mse_loss(output, target).expand(target.shape[:2]) + 0 * output.mean(2)


class DetachedLoss(Price):
    """The loss depends on nothing."""

    def loss(self, output, target):
        return F.mse_loss(output.detach(), target)


class DetachedHead(Colour):
    """The features are cut off from the encoder."""

    def head(self, features):
        return nn.Sequential(Detach(), heads.Linear(features, 2))


class Detach(nn.Module):
    """A cut."""

    def forward(self, features):
        return features.detach()


class IdleHead(Colour):
    """A layer is never used."""

    def head(self, features):
        head = heads.Linear(features, 2)
        head.idle = nn.Linear(3, 3)
        return head


class DeadHead(Colour):
    """The gradient is zero."""

    def loss(self, output, target):
        return F.cross_entropy(output * 0, target)


class NormHead(Colour):
    """In training, one row is too few for the head."""

    def head(self, features):
        return nn.Sequential(nn.BatchNorm1d(features.size), heads.Linear(features, 2))


class DeviationLoss(Price):
    """The loss of one row is divided by a deviation of nothing."""

    def loss(self, output, target):
        return F.mse_loss(output, target) / target.std(correction=0)


# --- metrics ---


class Crowd(Colour):
    """The metric cannot see a row by itself."""

    def metrics(self):
        return {"seen": SeenTogether()}


class NumberMetric(Colour):
    """A number for a metric."""

    def metrics(self):
        return {"accuracy": 0.5}


class NoMetric(Colour):
    """No metric at all."""

    def metrics(self):
        return {}


class NumberedMetric(Colour):
    """A number for a name."""

    def metrics(self):
        return {1: MulticlassAccuracy(2, average="micro")}


class Undirected(Colour):
    """The headline does not say what is better."""

    def metrics(self):
        return {"seen": Seen()}


class Seen(Metric):
    """How many rows there were."""

    def __init__(self):
        super().__init__()
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output, target):
        self.rows += len(target)

    def compute(self):
        return self.rows


class SeenTogether(Seen):
    """How many rows there were, two or more at a time."""

    higher_is_better = True

    def update(self, output, target):
        if len(target) == 1:
            raise IndexError("one row")
        super().update(output, target)


class Remembers(Colour):
    """The metric remembers what it saw before it was reset."""

    def metrics(self):
        return {"seen": SeenEver()}


class SeenEver(Metric):
    """How many rows there ever were."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.rows = 0

    def update(self, output, target):
        self.rows += len(target)

    def compute(self):
        return torch.tensor(self.rows)


class ByClass(Colour):
    """A metric for each class."""

    def metrics(self):
        return {"accuracy": MulticlassAccuracy(2, average="none")}


class NaNMetric(Colour):
    """A metric that is NaN."""

    def metrics(self):
        return {"nothing": Nothing()}


class Nothing(Seen):
    """A number that is none."""

    higher_is_better = True

    def compute(self):
        return self.rows * math.nan


# --- what it does to the world around it ---


class Closure(Colour):
    """The source holds a function that has no name."""

    change = staticmethod(lambda splits: None)


class Renamed(Colour):
    """The class is not where it says."""


Hidden, Renamed = Renamed, Colour


class PythonSeed(Colour):
    """Python's generator is seeded by the constructor."""

    def __init__(self):
        random.seed(7)


class NumpySeed(Colour):
    """NumPy's generator is seeded for the rows."""

    @staticmethod
    def change(splits):
        np.random.seed(0)  # noqa: NPY002 - it is the defect


class TorchSeed(Colour):
    """Torch's generator is seeded for the head."""

    def head(self, features):
        torch.manual_seed(0)
        return heads.Linear(features, 2)


class RandomLoss(Colour):
    """The loss draws a number."""

    def loss(self, output, target):
        return super().loss(output, target) + 0 * torch.rand(())


class Prints(Colour):
    """Loading the rows is told of."""

    @staticmethod
    def change(splits):
        print("loading 64 bottles")  # noqa: T201 - it is the defect


class Warns(Colour):
    """Metrics are told of on standard error."""

    def metrics(self):
        print("metrics", file=sys.stderr)  # noqa: T201 - it is the defect
        return super().metrics()
