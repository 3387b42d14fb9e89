"""What is NaN or infinite moves no weight: every strategy, every place it may come from, every policy."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.engine.guard import Guard, Refused
from mtlkit.engine.step import begin_step
from mtlkit.engine.tally import Tally

STRATEGIES = sorted(name for kind, name, _ in BUILTINS if kind == "strategies")
MARK = 777.0  # a target that a task's loss stumbles over
TASKS = ["one", {"name": "two", "options": {"seed": 1}}]
ROW = 3  # of the batch
STEP = 1  # from 0


@pytest.fixture(name="build")
def fixture_build(configure, registry_with, toy):
    """Return a function that builds an experiment of two tasks, each with rows of its own and a loss that stumbles."""

    class Stumbling(toy.Distance):
        """Its loss is infinite, or its gradient 0 / 0, where a target says so."""

        def loss(self, output, target):
            loss = super().loss(output, torch.where(target.abs() == MARK, 0, target))
            if (target == MARK).any():
                return loss + output[target == MARK].sum() * math.inf
            if (target == -MARK).any():
                return loss + (0 * output[target == -MARK]).abs().sum().sqrt()
            return loss

    def build(tasks=TASKS, **settings):
        registry = registry_with(one=Stumbling, two=Stumbling)
        training = {"steps": 8, "batch_size": 8, **settings.pop("training", {})}
        return mtlkit.build(configure(tasks=tasks, training=training, **settings), registry=registry)

    return build


def spoil(stream, what, at, rows=(ROW,)):
    """Let the batches of these numbers hold something that leads to what is not finite."""
    plain, drawn = stream.next, iter(range(10**9))

    def following():
        batch = plain()
        if next(drawn) in at:
            inputs, target = batch.inputs.clone(), batch.targets["distance"].clone()
            for row in rows:
                if what in {"nan", "inf"}:
                    inputs[row, 2] = float(what)
                else:
                    target[row] = MARK if what == "loss" else -MARK
            return mtlkit.Split(inputs, {**batch.targets, "distance": target})
        return batch

    stream.next = following


def state(experiment):
    """Return copies of all that a step moves: weights, statistics, optimizer, strategy."""
    return copy.deepcopy(
        [experiment.model.state_dict(), experiment.optimizer.state_dict()["state"], experiment.strategy.state_dict()]
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(7.5), other.nan_to_num(7.5))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def take(experiment, guard, steps, first=0):
    outcomes = []
    for step in range(first, first + steps):
        begin_step(experiment, step)
        outcomes.append(guard.take(step))
    return outcomes


def is_finite(experiment):
    return all(value.isfinite().all() for value in experiment.model.state_dict().values())


@pytest.mark.parametrize("what", ["nan", "inf", "loss", "gradient"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_is_kept_from_what_is_not_finite(build, strategy, what):
    """Of either task: it is named, with its rows, nothing moves in the step, and the next steps are sound."""
    for index, label in enumerate(["one", "two"]):
        experiment = build(strategy=strategy, training={"non_finite": "skip-step"})
        experiment.model.train()
        stream = experiment.groups[index].stream
        spoil(stream, what, {STEP})
        guard = Guard(experiment, Tally())
        sound, before = take(experiment, guard, STEP), state(experiment)
        (bad,) = take(experiment, guard, 1, STEP)
        assert same(before, state(experiment))
        assert not sound[0].found
        assert bad.is_skipped
        (found,) = bad.found
        assert (found.task, found.what) == (label, "gradient" if what == "gradient" else "loss")
        assert list(found.rows) == [ROW]
        assert found.split_rows == [int(stream.order.rows(STEP * 8, 8)[ROW])]
        assert found.cause == ("inputs" if what in {"nan", "inf"} else "loss")
        (after,) = take(experiment, guard, 1, STEP + 1)
        assert not after.found
        assert not after.is_skipped
        assert is_finite(experiment)
        assert not same(before, state(experiment))


@pytest.mark.parametrize(
    ("strategy", "what"),
    [
        *((strategy, "loss") for strategy in STRATEGIES),
        *itertools.product(["fixed", "uncertainty", "gradnorm", "moco", "auto-lambda"], ["nan", "gradient"]),
    ],
)
def test_a_step_without_the_task_is_one_in_which_it_had_no_labels(build, strategy, what):
    """Weights, optimizer and strategy move as they would, and what is known of the task stays as it is."""
    ends = []
    for case in ("spoilt", "unlabelled"):
        experiment = build(strategy=strategy, training={"non_finite": "skip-task"})
        experiment.model.train()
        stream = experiment.groups[1].stream
        if case == "spoilt":
            spoil(stream, what, {STEP})
        else:
            group = copy.copy(experiment.groups[1])
            object.__setattr__(group, "complete", False)
            object.__setattr__(experiment, "groups", [experiment.groups[0], group])
            plain, drawn = stream.next, iter(range(10**9))

            def unlabelled(plain=plain, drawn=drawn):
                batch = plain()
                targets = {**batch.targets, "distance": torch.full_like(batch.targets["distance"], math.nan)}
                return mtlkit.Split(batch.inputs, targets) if next(drawn) == STEP else batch

            stream.next = unlabelled
        outcomes = take(experiment, Guard(experiment, Tally()), STEP + 2)
        assert [each.is_skipped for each in outcomes] == [False] * 3
        assert [one.tasks for one in outcomes[STEP].passes] == [[0]]
        assert [each.task for each in outcomes[STEP].found] == (["two"] if case == "spoilt" else [])
        ends.append(state(experiment))
    assert same(*ends)


class TestPasses:
    """Steps of several passes, one of which is not sound."""

    def test_the_step_is_left_out_whole(self, build):
        experiment = build(strategy="dwa", training={"non_finite": "skip-step", "accumulate": 3})
        spoil(experiment.groups[0].stream, "loss", {4})  # of the second step
        guard = Guard(experiment, Tally())
        take(experiment, guard, 1)
        before = state(experiment)
        (bad,) = take(experiment, guard, 1, 1)
        assert same(before, state(experiment))
        assert [(each.task, each.number) for each in bad.found] == [("one", 1)]

    def test_the_task_is_left_out_of_the_pass_alone(self, build):
        experiment = build(strategy="dwa", training={"non_finite": "skip-task", "accumulate": 3})
        spoil(experiment.groups[0].stream, "loss", {1})
        (outcome,) = take(experiment, Guard(experiment, Tally()), 1)
        assert [one.tasks for one in outcome.passes] == [[0, 1], [1], [0, 1]]
        assert experiment.strategy.counts.tolist() == [2, 3]

    def test_a_gradient_is_traced_to_its_pass(self, build):
        experiment = build(training={"non_finite": "skip-task", "accumulate": 3})
        spoil(experiment.groups[0].stream, "gradient", {2})
        spoil(experiment.groups[1].stream, "gradient", {0})
        (outcome,) = take(experiment, Guard(experiment, Tally()), 1)
        assert [one.tasks for one in outcome.passes] == [[0], [0, 1], [1]]
        assert {(each.task, each.number) for each in outcome.found} == {("one", 2), ("two", 0)}
        assert is_finite(experiment)


class TestLookingAhead:
    @pytest.mark.parametrize("strategy", ["auto-lambda", "moml"])
    @pytest.mark.parametrize("policy", ["skip-task", "skip-step"])
    def test_a_held_out_loss_is_named(self, build, strategy, policy):
        experiment = build(strategy=strategy, training={"non_finite": policy})
        spoil(experiment.groups[1].held_out, "loss", {STEP})
        guard = Guard(experiment, Tally())
        take(experiment, guard, 1)
        before = state(experiment)
        (outcome,) = take(experiment, guard, 1, STEP)
        assert [(each.what, each.task) for each in outcome.found] == [("held-out loss", "two")]
        assert outcome.is_skipped == (policy == "skip-step")
        assert same(before, state(experiment)) == outcome.is_skipped
        if policy == "skip-task":
            assert outcome.passes[0].tasks == [0, 1]  # its training rows are sound

    def test_a_trial_step_that_leads_too_far_teaches_nothing(self, build):
        experiment = build(
            strategy="auto-lambda",
            optimizer={"name": "adam", "lr": 1e-3},
            training={"non_finite": "skip-task"},
        )
        guard = Guard(experiment, Tally())
        take(experiment, guard, 1)
        for group in experiment.optimizer.param_groups:
            group["initial_lr"] = 1e38  # of the trial step, and not of Adam's once it is set back
        begin_step(experiment, 1)
        before = copy.deepcopy(experiment.strategy.state_dict())
        outcome = guard.take(1)
        assert [(each.what, each.task) for each in outcome.found] == [
            ("held-out loss", "one"),
            ("held-out loss", "two"),
        ]
        assert outcome.passes[0].tasks == [0, 1]
        assert same(before, experiment.strategy.state_dict())


class TestWeightsOfAStrategy:
    def test_one_that_is_infinite_moves_nothing(self, build):
        """The factor of a loss of which the strategy is all too certain."""
        experiment = build(strategy="uncertainty", training={"non_finite": "skip-step"})
        with torch.no_grad():
            experiment.strategy.log_scales[1].fill_(-1e9)
        before = state(experiment)
        (outcome,) = take(experiment, Guard(experiment, Tally()), 1)
        assert [(each.what, each.task) for each in outcome.found] == [("weight", "two")]
        assert same(before, state(experiment))


class TestStatistics:
    """What the forward pass moves, such as the statistics of batch normalisation."""

    @pytest.mark.parametrize("policy", ["skip-task", "skip-step"])
    def test_stay_finite(self, policy, registry_with, configure):
        class Normalised(mtlkit.Encoder):
            def __init__(self, inputs):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(inputs.size, 4), nn.BatchNorm1d(4), nn.ReLU())
                self.features = mtlkit.FeatureSpec((4,))

            def forward(self, rows):
                return self.layers(rows)

            def stages(self):
                return [self.layers]

        registry = registry_with(normalised=Normalised)
        tasks = ["side", {"name": "distance", "options": {"seed": 1}}]
        experiment = mtlkit.build(
            configure(tasks=tasks, encoder="normalised", training={"non_finite": policy, "steps": 4}), registry=registry
        )
        experiment.model.train()
        spoil(experiment.groups[1].stream, "nan", {STEP})
        guard = Guard(experiment, Tally())
        take(experiment, guard, 1)
        before = state(experiment)
        (outcome,) = take(experiment, guard, 1, STEP)
        assert [each.task for each in outcome.found] == ["distance"]
        assert list(outcome.found[0].rows) == [ROW]  # though batch normalisation spoils all rows
        assert same(before, state(experiment)) == (policy == "skip-step")
        assert is_finite(experiment)


class TestLimit:
    def test_of_one_task_counts_the_steps_that_it_took_part_in(self, build):
        experiment = build(
            mixing="uniform", training={"non_finite": "skip-task", "non_finite_limit": 2, "steps": 40}, run={"seed": 1}
        )
        spoil(experiment.groups[0].stream, "loss", range(100))
        guard = Guard(experiment, tally := Tally())
        with pytest.raises(Refused) as caught:
            take(experiment, guard, 40)
        assert caught.value.in_a_row == 3
        assert tally.tasks == {"one": 2}

    def test_begins_anew_after_a_step_that_was_sound(self, build):
        experiment = build(training={"non_finite": "skip-step", "non_finite_limit": 2})
        spoil(experiment.groups[0].stream, "loss", {0, 1, 3, 4})
        tally = Tally()
        outcomes = take(experiment, Guard(experiment, tally), 6)
        assert [each.is_skipped for each in outcomes] == [True, True, False, True, True, False]
        assert (tally.steps, tally.tasks, tally.in_a_row, tally.skipped_in_a_row) == (4, {"one": 4}, {}, 0)

    def test_of_skipped_steps_counts_all_tasks_together(self, build):
        experiment = build(training={"non_finite": "skip-step", "non_finite_limit": 3})
        for group, at in zip(experiment.groups, ({0, 2}, {1, 3}), strict=True):
            spoil(group.stream, "nan", at)
        with pytest.raises(Refused) as caught:
            take(experiment, Guard(experiment, Tally()), 4)
        assert caught.value.in_a_row == 4


class TestCause:
    """Where in the computation the first values are that are not finite, each in one row."""

    class Logarithm(nn.Module):
        """The logarithm of rows, which is NaN where they are negative."""

        def forward(self, rows):
            return rows.log()

    def found(self, registry_with, configure, toy, *, in_head):
        logarithm = self.Logarithm

        class Read(mtlkit.Encoder):
            def __init__(self, inputs):
                super().__init__()
                layers = [nn.Linear(inputs.size, inputs.size), *([] if in_head else [logarithm()])]
                self.layers = nn.Sequential(*layers)
                nn.init.eye_(layers[0].weight)
                nn.init.zeros_(layers[0].bias)
                self.features = mtlkit.FeatureSpec((inputs.size,))

            def forward(self, rows):
                return self.layers(rows)

            def stages(self):
                return [self.layers]

        class Positive(toy.Distance):
            def source(self):
                points = self.points

                @dataclass(frozen=True)
                class Shifted(mtlkit.Source):
                    def splits(self):
                        return {
                            name: mtlkit.Split(split.inputs.abs() + 1, dict(split.targets))
                            for name, split in points.splits().items()
                        }

                return Shifted()

            def head(self, features):
                return nn.Sequential(*([logarithm()] if in_head else []), nn.Linear(features.size, 1))

        registry = registry_with(read=Read, positive=Positive)
        experiment = mtlkit.build(
            configure(tasks=["positive"], encoder="read", training={"non_finite": "skip-step"}), registry=registry
        )
        stream = experiment.groups[0].stream
        plain = stream.next

        def following():
            batch = plain()
            inputs = batch.inputs.clone()
            inputs[ROW] = -1.0
            return mtlkit.Split(inputs, batch.targets)

        stream.next = following
        (outcome,) = take(experiment, Guard(experiment, Tally()), 1)
        (found,) = outcome.found
        return found

    @pytest.mark.parametrize(("in_head", "cause"), [(False, "features"), (True, "output")])
    def test_is_the_first_in_line(self, registry_with, configure, toy, in_head, cause):
        found = self.found(registry_with, configure, toy, in_head=in_head)
        assert (found.what, found.value, found.cause, list(found.rows)) == ("loss", "nan", cause, [ROW])
