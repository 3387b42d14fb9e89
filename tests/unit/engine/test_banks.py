"""Banks in runs: alike heads computed as one make the same run as heads that are computed one by one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import mtlkit
from mtlkit import banks, heads
from mtlkit.engine.events import StepFinished
from mtlkit.engine.step import forward_backward
from mtlkit.errors import PluginError

UNBANKED = 10**6


@dataclass(frozen=True)
class Many(mtlkit.Source):
    """Points with many targets: numbers, pairs of numbers, classes, yes or no.

    Attributes:
        gaps: Every how many rows one has no label for a target; 0 for none.
        only: How many rows have a label for the first number, the others having none; 0 for all.
    """

    gaps: int = 0
    only: int = 0

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(0)
        splits = {}
        for name, rows in {"train": 96, "validation": 20, "test": 20}.items():
            x = torch.randn(rows, 6, generator=generator)
            y = torch.sin(x @ torch.randn(6, 16, generator=generator))  # [N, 16]
            columns = {f"number{i}": y[:, i].clone() for i in range(5)}
            columns |= {f"pair{i}": y[:, i : i + 2].clone() for i in range(4)}
            columns |= {f"class{i}": (y[:, i] > 0).long() + (y[:, i + 1] > 0).long() for i in range(4)}
            columns |= {f"yes{i}": (y[:, i] > 0.2).long() for i in range(4)}
            if self.gaps:
                for place, column in enumerate(columns.values()):
                    column[place :: self.gaps] = torch.nan if column.is_floating_point() else -100
            if self.only:
                columns["number0"][self.only :] = torch.nan
            splits[name] = mtlkit.Split(x, columns)
        return splits


class Number(mtlkit.tasks.Regression):
    """A number."""

    def __init__(self, *, index: int = 0, gaps: int = 0, only: int = 0) -> None:
        self.target, self.points = f"{type(self).__name__.lower()}{index}", Many(gaps, only)

    def source(self) -> mtlkit.Source:
        return self.points


class Pair(Number):
    """Two numbers."""

    shape = (2,)


class Class(mtlkit.tasks.Classification):
    """One of three."""

    n_classes = 3
    __init__ = Number.__init__
    source = Number.source


class Yes(mtlkit.tasks.Binary):
    """Yes or no."""

    __init__ = Number.__init__
    source = Number.source


class Hidden(Number):
    """A number whose head has a hidden layer, so that it is in no bank."""

    hidden_layers = (3,)

    def __init__(self, *, gaps: int = 0) -> None:
        super().__init__(gaps=gaps)
        self.target = "number4"


KINDS = {"number": Number, "pair": Pair, "class": Class, "yes": Yes, "hidden": Hidden}


def several(kind, count, **options):
    """Return the configuration of some tasks of one kind."""
    return [
        {"name": kind, "label": f"{kind}-{index}", "options": {"index": index, **options}} for index in range(count)
    ]


def mixed(**options):
    """Return tasks of all kinds, in no order, most of which are in one bank or another."""
    every = [several(kind, 4, **options) for kind in ("number", "pair", "class", "yes")]
    tasks = [task for of_each_kind in zip(*every, strict=True) for task in of_each_kind]
    return [*tasks[:7], {"name": "hidden", "options": options}, *tasks[7:]]


FLOAT64 = {"precision": "float64", "batch_size": 24}


@pytest.fixture(name="build")
def fixture_build(configure, registry_with):
    """Return a function that builds an experiment."""
    return lambda **settings: mtlkit.build(configure(**settings), registry=registry_with(**KINDS))


@pytest.fixture(name="both")
def fixture_both(build, monkeypatch):
    """Return a function that builds an experiment with banks, and the same without."""

    def both(**settings):
        with_banks = build(**settings)
        with monkeypatch.context() as patched:
            patched.setattr(banks, "LEAST_TASKS", UNBANKED)
            without = build(**settings)
        assert any(group.banks for group in with_banks.groups)
        assert not any(group.banks for group in without.groups)
        return with_banks, without

    return both


def steps(experiment, count=1):
    """Take steps as the loop does, and return what the last pass was."""
    experiment.model.train()
    for step in range(count):
        last = forward_backward(experiment, step, 0)
        experiment.optimizer.step()
        experiment.optimizer.zero_grad()
    return last


def assert_same_state(one, other, **tolerance):
    one, other = one.model.state_dict(), other.model.state_dict()
    assert list(one) == list(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}", **tolerance)


class TestTheSameAsOneByOne:
    @pytest.mark.parametrize("gaps", [0, 3])
    @pytest.mark.parametrize(
        "strategy", ["fixed", "gradnorm", "mgda-ub", "mgda", "uncertainty", "famo", "pcgrad", "imtl"]
    )
    def test_after_steps_with_every_strategy(self, both, strategy, gaps):
        given, expected = both(tasks=mixed(gaps=gaps), strategy=strategy, training=FLOAT64)
        assert_same_state(given, expected, rtol=0, atol=0)
        for _ in range(3):
            one, other = steps(given), steps(expected)
            assert one.tasks == other.tasks == list(range(17))
            assert one.rows == other.rows
            torch.testing.assert_close(one.measured.losses, other.measured.losses, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(one.measured.weights, other.measured.weights, rtol=1e-8, atol=1e-10)
        assert_same_state(given, expected, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda-ub", "mgda", "uncertainty", "pcgrad"])
    def test_of_gradients_where_there_are_banks_alone(self, both, strategy):
        for tasks in (several("number", 5), several("class", 4)):
            given, expected = both(tasks=tasks, strategy=strategy, training=FLOAT64, diagnostics={"every": 1})
            one, other = (forward_backward(each, 0, 0) for each in (given, expected))
            torch.testing.assert_close(one.measured.gramian, other.measured.gramian, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(one.measured.weights, other.measured.weights, rtol=1e-9, atol=1e-11)
            shared = zip(given.model.architecture.parameters(), expected.model.architecture.parameters(), strict=True)
            for ours, theirs in shared:
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
            (bank,) = given.model.banks
            heads_of = [expected.model.head(label) for label in expected.model.labels]
            for name in ("weight", "bias"):
                theirs = torch.cat([dict(head.named_parameters())[_entry(head, name)].grad for head in heads_of])
                torch.testing.assert_close(getattr(bank, name).grad, theirs, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda-ub", "mgda", "famo"])
    def test_where_tasks_are_absent(self, both, strategy):
        given, expected = both(tasks=several("number", 5), strategy=strategy, training=FLOAT64)
        for experiment in (given, expected):
            (group,) = experiment.groups
            object.__setattr__(group, "complete", False)
            targets = group.stream.split.targets
            for name in ("number1", "number4"):
                column = (
                    targets.blocks[next(iter(targets.blocks))][:, int(name[-1])]
                    if experiment is given
                    else targets[name]
                )
                column.fill_(torch.nan)
        one, other = (forward_backward(each, 0, 0) for each in (given, expected))
        assert one.tasks == other.tasks == [0, 2, 3]
        torch.testing.assert_close(one.measured.losses, other.measured.losses, rtol=1e-10, atol=1e-12)
        (bank,) = given.model.banks
        for place, label in enumerate(given.model.labels):
            theirs = expected.model.head(label).map.output.weight.grad
            theirs = torch.zeros(1, 8).double() if place in {1, 4} else theirs
            torch.testing.assert_close(bank.weight.grad[place : place + 1], theirs, rtol=1e-9, atol=1e-12)

    def test_in_the_records_and_the_results_of_a_run(self, train, records, monkeypatch):
        settings = {
            "tasks_given": KINDS,
            "tasks": mixed(gaps=4),
            "strategy": "gradnorm",
            "training": {**FLOAT64, "log_every": 1},
            "diagnostics": {"every": 3},
        }
        one = train(run={"name": "bank"}, **settings)
        monkeypatch.setattr(banks, "LEAST_TASKS", UNBANKED)
        other = train(run={"name": "loop"}, **settings)
        ours, theirs = records(one.folder), records(other.folder)
        assert len(ours) == len(theirs)
        for mine, its in zip(ours, theirs, strict=True):
            assert json.dumps(_rounded(mine)) == json.dumps(_rounded(its))
        saved, expected = (load_file(run.folder / "best" / "weights.safetensors") for run in (one, other))
        assert list(saved) == list(expected)
        assert all(saved[name].shape == expected[name].shape for name in saved)


def _entry(head, name):
    return f"map.output.{name}" if isinstance(head, heads.Regression) else f"output.{name}"


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


class TestRuns:
    def test_go_on_bit_for_bit(self, train, weights):
        settings = {"tasks_given": KINDS, "tasks": mixed(gaps=4), "checkpoints": {"best": "last"}}
        whole = train(run={"name": "whole"}, **settings)

        class CutOffError(Exception):
            """The run is cut off here."""

        def stop(event):
            if isinstance(event, StepFinished) and event.step == 6:
                raise CutOffError

        with pytest.raises(CutOffError):
            train(run={"name": "cut"}, listeners=[stop], **settings)
        resumed = train(run={"name": "cut"}, resume=True, **settings)
        assert weights(resumed.folder) == weights(whole.folder)

    def test_load_weights_of_runs_without_banks(self, both):
        given, expected = both(tasks=mixed(), training=FLOAT64)
        steps(expected, 2)
        given.model.load_state_dict(expected.model.state_dict())
        x = torch.randn(5, 6).double()
        for label, output in expected.model(x).items():
            torch.testing.assert_close(given.model(x)[label], output, rtol=0, atol=0)
        steps(given)
        expected.model.load_state_dict(given.model.state_dict())
        torch.testing.assert_close(given.model(x)["pair-1"], expected.model(x)["pair-1"], rtol=0, atol=0)

    def test_tell_whose_targets_are_no_classes(self, build):
        built = build(tasks=several("class", 4))
        (group,) = built.groups
        next(iter(group.stream.split.targets.blocks.values()))[:, 2] = 7
        with pytest.raises(PluginError, match="The loss of task 'class-2' failed"):
            steps(built)


class TestWhichTasks:
    def test_are_those_of_one_kind(self, build):
        built = build(tasks=mixed())
        (group,) = built.groups
        labels = [[built.labels[task] for task in bank.tasks] for bank in group.banks]
        assert labels == [[f"{kind}-{index}" for index in range(4)] for kind in ("number", "pair", "class", "yes")]
        assert len(built.model.banks) == 4

    def test_are_not_three(self, build):
        assert not build(tasks=several("number", 3)).groups[0].banks

    @pytest.mark.parametrize("architecture", ["mmoe", "cross-stitch"])
    def test_are_none_with_features_of_their_own(self, build, architecture):
        assert not build(tasks=several("number", 4), architecture=architecture).groups[0].banks

    @pytest.mark.parametrize(("optimizer", "is_banked"), [("sgd", True), ("rmsprop", True), ("adafactor", False)])
    def test_are_none_where_an_optimizer_looks_at_whole_parameters(self, build, optimizer, is_banked):
        built = build(tasks=several("number", 4), optimizer={"name": optimizer, "lr": 0.01})
        assert bool(built.groups[0].banks) is is_banked

    def test_are_not_those_that_a_batch_may_lack(self, build):
        tasks = several("number", 5, only=48)
        assert build(tasks=tasks, training={"batch_size": 24}).groups[0].banks[0].tasks == (0, 1, 2, 3, 4)
        assert build(tasks=tasks, training={"batch_size": 8}).groups[0].banks[0].tasks == (1, 2, 3, 4)

    @pytest.mark.parametrize("what", ["loss", "head", "labelled"])
    def test_are_not_those_that_do_something_else(self, configure, registry_with, what):
        class Other(Number):
            """Another number."""

            if what == "loss":

                def loss(self, output, target):
                    return F.l1_loss(output, target)

            elif what == "head":

                def head(self, features):
                    return nn.Sequential(heads.Regression(features))

            else:

                def labelled(self, target):
                    return target > 0

        tasks = [{**task, "name": "other"} for task in several("number", 4)]
        Other.__name__ = "Number"
        built = mtlkit.build(configure(tasks=tasks), registry=registry_with(other=Other))
        assert not built.groups[0].banks

    def test_may_have_a_loss_that_says_what_each_row_pays(self, configure, registry_with, monkeypatch):
        class Absolute(Number):
            """The absolute error."""

            def loss(self, output, target):
                return F.l1_loss(output, target)

            @staticmethod
            def row_losses(output, target):
                return (output - target).abs()

        Absolute.__name__ = "Number"
        tasks = [{**task, "name": "absolute"} for task in several("number", 4, gaps=3)]
        config = configure(tasks=tasks, training=FLOAT64)
        given = mtlkit.build(config, registry=registry_with(absolute=Absolute))
        monkeypatch.setattr(banks, "LEAST_TASKS", UNBANKED)
        expected = mtlkit.build(config, registry=registry_with(absolute=Absolute))
        assert given.groups[0].banks
        steps(given, 3)
        steps(expected, 3)
        assert_same_state(given, expected, rtol=1e-10, atol=1e-12)
