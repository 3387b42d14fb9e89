"""Runs whose rows are drawn by class, or by a column of weights."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

import mtlkit
from mtlkit.engine import events
from mtlkit.errors import ConfigError, Stopped
from mtlkit.yamlfile import load, parse

BALANCED = {"name": "side", "sampling": "balanced"}
WEIGHTED = {"name": "side", "sampling": {"weights": "often"}}


@pytest.fixture(name="given")
def fixture_given(toy):
    """Tasks on a source of 80 rows on one side of the plane, 10 on the other and 30 without a label, with weights."""

    class Skewed(toy.Points):
        def splits(self):
            splits = super().splits()
            for split in splits.values():
                side = torch.zeros(len(split), dtype=torch.int64)
                side[:10], side[90:] = 1, -100
                split.targets["side"] = side
                split.targets["often"] = (torch.arange(len(split)) % 4).double()
                split.targets["flaw"] = torch.full((len(split),), -1.0)
                split.targets["all"] = split.inputs
            return splits

    class Side(toy.Side):
        def source(self):
            return Skewed(self.points.rows, self.points.seed)

    class Distance(toy.Distance):
        def source(self):
            return Skewed(self.points.rows, self.points.seed)

    return {"side": Side, "distance": Distance}


@pytest.fixture(name="drawn")
def fixture_drawn(configure, registry_with, given):
    """Return a function that builds a run whose rows are all to train on, and draws of its first source."""

    def drawn(*tasks, batches=125, **settings):
        config = configure(tasks=list(tasks), **settings)
        stream = mtlkit.build(config, registry=registry_with(**given)).groups[0].stream
        return [stream.next() for _ in range(batches)]

    return drawn


@pytest.fixture(name="problem")
def fixture_problem(registry_with, given):
    """Return a function that builds from YAML, and returns what was wrong with it, where, and what would work."""

    def problem(text):
        with pytest.raises(ConfigError) as caught:
            mtlkit.build(parse(text, "run.yaml"), registry=registry_with(**given))
        ((found),) = caught.value.problems
        return found.what, found.location, found.remedy

    return problem


def sides(batches):
    return Counter(torch.cat([batch.targets["side"] for batch in batches]).tolist())


class TestDraws:
    def test_are_shuffled_by_default(self, drawn):
        # Of 120 rows a pass, 80 are of class 0, 10 of class 1, and 30 have no label.
        counts = sides(drawn("side", training={"batch_size": 12}, batches=10))
        assert counts == {0: 80, 1: 10, -100: 30}
        assert sides(drawn({"name": "side", "sampling": "shuffle"}, training={"batch_size": 12}, batches=10)) == counts

    @pytest.mark.parametrize("sampling", ["balanced", {"balanced": "side"}])
    def test_of_each_class_are_alike(self, drawn, sampling):
        counts = sides(drawn({"name": "side", "sampling": sampling}))
        # A quarter of the rows has no label, and comes as often as in a shuffle.
        assert chisquare([counts[0], counts[1], counts[-100]], [750, 750, 500]).pvalue > 0.01

    def test_are_as_often_as_a_column_says(self, drawn):
        batches = drawn(WEIGHTED)
        often = Counter(torch.cat([batch.targets["often"] for batch in batches]).tolist())
        assert often[0] == 0
        assert chisquare([often[1], often[2], often[3]], [2000 / 6, 4000 / 6, 6000 / 6]).pvalue > 0.01

    def test_by_the_classes_of_a_task_that_is_not_here(self, drawn):
        counts = sides(drawn({"name": "distance", "sampling": {"balanced": "side"}}))
        assert chisquare([counts[0], counts[1], counts[-100]], [750, 750, 500]).pvalue > 0.01

    def test_are_those_of_the_seed(self, drawn):
        first, again, other = (
            torch.cat([batch.inputs for batch in drawn(BALANCED, run={"seed": seed}, batches=9)]) for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_of_a_pass_are_as_many_as_there_are_rows(self, configure, registry_with, given):
        for tasks in (["side"], [BALANCED], [WEIGHTED]):
            training = {"steps": None, "steps_per_epoch": None}
            plan = mtlkit.build(configure(tasks=tasks, training=training), registry=registry_with(**given)).plan
            assert plan.steps_per_epoch == 8  # of 16 rows, where there are 120


class TestSharedSources:
    def test_tasks_that_agree(self, drawn):
        batches = drawn(BALANCED, {"name": "distance", "sampling": {"balanced": "side"}}, batches=9)
        alone = drawn(BALANCED, batches=9)
        assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(batches, alone, strict=True))

    def test_tasks_that_do_not(self, problem):
        what, place, remedy = problem("tasks:\n  - {name: side, sampling: balanced}\n  - {name: distance}\n")
        assert what == (
            "Tasks that share a source share how its rows are drawn, and they ask for different ones: "
            "side balanced by 'side', distance shuffle"
        )
        assert place == "run.yaml:3:5"
        assert "{balanced: COLUMN}" in remedy
        text = "tasks:\n  - {name: distance, sampling: {weights: often}}\n  - {name: side, sampling: balanced}\n"
        what, place, _ = problem(text)
        assert what.endswith("distance weights by 'often', side balanced by 'side'")
        assert place == "run.yaml:3:28"

    def test_tasks_of_other_sources_may_ask_for_other_ways(self, train, given):
        tasks = [BALANCED, {"name": "side", "label": "other", "options": {"seed": 1}}]
        assert train(tasks_given=given, tasks=tasks).steps == 12


class TestWhatIsRefused:
    def test_a_column_that_is_not_there(self, problem):
        what, place, remedy = problem("tasks: [{name: side, sampling: {weights: oftn}}]\n")
        assert (what, place) == ("The source has no target column 'oftn'", "run.yaml:1:42")
        assert remedy.startswith("Did you mean 'often'?")

    @pytest.mark.parametrize(
        ("sampling", "what", "place"),
        [
            ("{weights: flaw}", "by the column 'flaw': a weight is finite and at least 0, and 120 of 120", "1:42"),
            ("{weights: all}", "by the column 'all': it holds [6] values a row", "1:42"),
            ("{balanced: distance}", "by the column 'distance': it holds numbers that are not whole", "1:43"),
            ("{}", "Sampling is by one column", "1:32"),
            ("{balanced: side, weights: often}", "Sampling is by one column", "1:32"),
            ("{wieghts: often}", "Unknown key 'wieghts'", "1:33"),
            ("balnced", "Unknown value 'balnced'", "1:32"),
            ("3", "Unknown value 3 (integer)", "1:32"),
        ],
    )
    def test_what_does_not_fit(self, problem, sampling, what, place):
        found, location, _ = problem(f"tasks: [{{name: side, sampling: {sampling}}}]\n")
        assert what in found
        assert location == f"run.yaml:{place}"

    def test_balanced_where_there_are_no_classes(self, problem):
        what, place, _ = problem("tasks: [{name: distance, sampling: balanced}]\n")
        assert what.endswith("balanced by the column 'distance': it holds numbers that are not whole, and classes are")
        assert place == "run.yaml:1:36"


class TestRuns:
    @pytest.mark.parametrize("task", [BALANCED, WEIGHTED], ids=["balanced", "weighted"])
    def test_going_on_ends_as_if_never_stopped(self, train, given, task):
        def stop(event):
            if isinstance(event, events.StepFinished) and event.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

        whole = train(tasks_given=given, run={"name": "whole"}, tasks=[task])
        with pytest.raises(Stopped):
            train(tasks_given=given, run={"name": "stopped"}, tasks=[task], listeners=[stop])
        resumed = train(tasks_given=given, run={"name": "stopped"}, tasks=[task], resume=True)
        for name in ("metrics.jsonl", "done.json", "best/weights.safetensors"):
            assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()

    @pytest.mark.parametrize("sampling", ["balanced", {"weights": "often"}])
    def test_a_configuration_that_was_written_down_says_the_same(self, train, given, registry_with, sampling):
        run = train(tasks_given=given, tasks=[{"name": "side", "sampling": sampling}])
        saved = load(run.folder / "config.yaml").data
        assert saved["tasks"][0]["sampling"] == sampling
        saved["run"]["name"] = "again"
        again = mtlkit.train(saved, registry=registry_with(**given))
        assert again.results == run.results

    def test_each_task_alone_sees_the_rows_that_it_saw_together(self, configure, registry_with, given, records):
        tasks = [BALANCED, {"name": "distance", "sampling": {"balanced": "side"}}]
        result = mtlkit.baseline(configure(tasks=tasks), registry=registry_with(**given))
        together, *alone = (
            records(result.folder / "seed-0" / name, "step") for name in ("together", "side", "distance")
        )
        for label, steps in zip(("side", "distance"), alone, strict=True):
            assert [step["rows"][label] for step in steps] == [step["rows"][label] for step in together]
