"""The probe: what does not fit is found before the first step."""

import math

import pytest
import torch
from torchmetrics import MeanSquaredError, PearsonCorrCoef

import mtlkit
from mtlkit.errors import ConfigError, PluginError


@pytest.fixture(name="check")
def fixture_check(configure, registry_with):
    """Return a function that checks a run of one task of this class."""

    def check(task, **settings):
        return mtlkit.check(configure(tasks=["given"], **settings), registry=registry_with(given=task))

    return check


@pytest.fixture(name="late")
def fixture_late(toy):
    """A task whose first rows have no label."""

    class LatePoints(toy.Points):
        def splits(self):
            split = super().splits()["train"]
            targets = {name: column.clone().float() for name, column in split.targets.items()}
            for column in targets.values():
                column[:20] = math.nan
            return {"train": mtlkit.Split(split.inputs, targets)}

    class Late(toy.Distance):
        def source(self):
            return LatePoints()

    return Late


def test_a_task_without_labels_in_the_first_rows_is_seen(check, late):
    class Broken(late):
        def loss(self, output, target):
            raise RuntimeError("no such loss")

    with pytest.raises(PluginError, match="no such loss"):
        check(Broken)


@pytest.mark.parametrize("metrics", [{}, {"pearson": PearsonCorrCoef()}])
def test_a_headline_without_a_direction_is_refused(check, late, metrics):
    class Undirected(late):
        def metrics(self):
            return metrics

    with pytest.raises(PluginError, match="headline"):
        check(Undirected)


def test_a_metric_that_is_no_number_is_refused(check, toy):
    class Several(MeanSquaredError):  # noqa: N818 - a metric, not an exception
        def compute(self):
            return torch.zeros(3)

    class Task(toy.Distance):
        def metrics(self):
            return {"several": Several()}

    with pytest.raises(PluginError, match="several"):
        check(Task)


def test_a_metric_without_a_direction_chooses_no_weights(check, toy):
    class Task(toy.Distance):
        def metrics(self):
            return {"mse": MeanSquaredError(), "pearson": PearsonCorrCoef()}

    with pytest.raises(ConfigError, match="does not say whether higher is better"):
        check(Task, checkpoints={"best": "given/pearson"})
