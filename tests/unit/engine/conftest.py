"""Two learnable toy tasks in memory, a registry that has them beside what is installed, and runs of a few steps."""

import json
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanAbsoluteError, MeanSquaredError, Metric
from torchmetrics.classification import MulticlassAccuracy

import mtlkit
from mtlkit import heads
from mtlkit.registry import Record

FEATURES = 6
UNLABELLED = -100
KINDS = {
    mtlkit.Task: "tasks",
    mtlkit.Encoder: "encoders",
    mtlkit.Architecture: "architectures",
    mtlkit.Strategy: "strategies",
}
SECTIONS = {"run", "training", "evaluation", "checkpoints"}


@dataclass(frozen=True)
class Points(mtlkit.Source):
    """Points in six dimensions: which side of a plane each is on, and how far from it.

    Attributes:
        rows: How many training rows.
        seed: Where the points are.
        gaps: Every how many rows one has no label, for either target; 0 for none.
    """

    rows: int = 120
    seed: int = 0
    gaps: int = 0

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.linspace(-1, 1, FEATURES)
        splits = {}
        for name, rows in {"train": self.rows, "validation": 33, "test": 45}.items():
            inputs = torch.randn(rows, FEATURES, generator=generator)
            distance = inputs @ normal[:, None]  # [N, 1]
            side = (distance[:, 0] > 0).long()
            if self.gaps:
                side[:: self.gaps] = UNLABELLED
                distance[1 :: self.gaps] = torch.nan
            splits[name] = mtlkit.Split(inputs, {"side": side, "distance": distance})
        return splits


class Side(mtlkit.Task):
    """Which side of the plane a point is on."""

    loss_kind = "classification"
    target = "side"
    n_classes = 2

    def __init__(self, *, rows: int = 120, seed: int = 0, gaps: int = 0) -> None:
        self.points = Points(rows, seed, gaps)

    def source(self) -> mtlkit.Source:
        return self.points

    def head(self, features: mtlkit.FeatureSpec) -> nn.Module:
        return heads.Linear(features, 2)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": MulticlassAccuracy(2, average="micro")}


class Distance(mtlkit.Task):
    """How far from the plane a point is."""

    loss_kind = "regression"
    target = "distance"

    def __init__(self, *, rows: int = 120, seed: int = 0, gaps: int = 0) -> None:
        self.points = Points(rows, seed, gaps)

    def source(self) -> mtlkit.Source:
        return self.points

    def head(self, features: mtlkit.FeatureSpec) -> nn.Module:
        return heads.Linear(features, 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def metrics(self) -> Mapping[str, Metric]:
        return {"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}


@pytest.fixture(name="toy")
def fixture_toy():
    """The toy classes, for a test to subclass."""
    return types.SimpleNamespace(Points=Points, Side=Side, Distance=Distance)


@pytest.fixture(name="registry_with")
def fixture_registry_with(monkeypatch):
    """Return a function that makes a registry of what is installed, the toy tasks, and the components given."""

    def registry_with(**given):
        """Take components by entry-point name, each a class of its kind; anything else is a plugin of hooks."""
        module = types.ModuleType("toy_plugin")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        records = mtlkit.Registry.discover().records()
        for name, component in {"side": Side, "distance": Distance, **given}.items():
            kind = next(
                (k for base, k in KINDS.items() if isinstance(component, type) and issubclass(component, base)), ""
            )
            setattr(module, name, mtlkit.plugin(component) if kind else component)
            kind = kind or "plugins"
            records.append(Record(kind, name, "toy-plugin", "1.2.3", f"toy_plugin:{name}"))
        return mtlkit.Registry(records)

    return registry_with


@pytest.fixture(name="configure")
def fixture_configure(tmp_path):
    """Return a function that makes the configuration of a run of 12 steps in 3 epochs, with what is given instead."""

    def configure(**given):
        settings = {
            "run": {"name": "toy", "dir": str(tmp_path), "seed": 0},
            "tasks": ["side", "distance"],
            "encoder": {"name": "mlp", "layers": [8]},
            "optimizer": {"name": "adam", "lr": 0.02},
            "training": {
                "steps": 12,
                "steps_per_epoch": 4,
                "batch_size": 16,
                "log_every": 1,
                "threads": 1,
                "device": "cpu",
            },
            "evaluation": {"batch_size": 16},
            "checkpoints": {},
        }
        for key, value in given.items():
            settings[key] = settings[key] | value if key in SECTIONS else value
        return settings

    return configure


@pytest.fixture(name="train")
def fixture_train(configure, registry_with):
    """Return a function that trains a run of :func:`configure` with a registry of :func:`registry_with`."""

    def train(*, tasks_given=None, resume=False, allow=(), listeners=(), **settings):
        registry = registry_with(**(tasks_given or {}))
        config = configure(**settings)
        return mtlkit.train(config, resume=resume, allow=allow, listeners=listeners, registry=registry)

    return train


@pytest.fixture(name="records")
def fixture_records():
    """Return a function that reads the lines of a run's metrics.jsonl, of one kind of event or of all."""

    def records(folder, event=None):
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        each = [json.loads(line) for line in lines]
        return [record for record in each if event in {None, record["event"]}]

    return records


@pytest.fixture(name="weights")
def fixture_weights():
    """Return a function that reads the bytes of a run's best weights."""
    return lambda folder: (folder / "best" / "weights.safetensors").read_bytes()
