"""Runs whose sources are drawn: how often, what an epoch is, that they resume, and what each task gets alone."""

from __future__ import annotations

import inspect
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.engine import events
from mtlkit.errors import ConfigError, Stopped
from mtlkit.yamlfile import load, parse

ROOT = Path(__file__).resolve().parents[3]
STRATEGIES = [name for kind, name, _ in BUILTINS if kind == "strategies"]
# Three sources; 'side' and 'far' share the first. In batches of 16 they have 8 (of 7.5), 4 (of 3.125) and 2 (of 1.875).
TASKS = [
    "side",
    {"name": "distance", "label": "far"},
    {"name": "distance", "label": "near", "options": {"rows": 50, "seed": 1}},
    {"name": "side", "label": "few", "options": {"rows": 30, "seed": 2}},
]
DRAWN = {
    "proportional": {"side": 7.5, "near": 3.125, "few": 1.875},
    "uniform": {"side": 1, "near": 1, "few": 1},
    "temperature": {"side": 7.5**0.5, "near": 3.125**0.5, "few": 1.875**0.5},
}
RATIOS = {"name": "ratios", "ratios": {"far": 3, "near": 1, "few": 0.5}}
FREE = {"steps": None, "steps_per_epoch": None}


@pytest.fixture(name="build")
def fixture_build(configure, registry_with):
    """Return a function that builds a run of the three sources."""

    def build(*, tasks_given=None, **settings):
        config = configure(**{"tasks": TASKS, **settings})
        return mtlkit.build(config, registry=registry_with(**(tasks_given or {})))

    return build


@pytest.fixture(name="problems")
def fixture_problems(registry_with):
    """Return a function that builds from YAML, and returns what was wrong with it and where."""

    def problems(text):
        with pytest.raises(ConfigError) as caught:
            mtlkit.build(parse(text, "run.yaml"), registry=registry_with())
        return [(problem.what, problem.location, problem.remedy) for problem in caught.value.problems]

    return problems


class TestProbabilities:
    @pytest.mark.parametrize("name", DRAWN)
    def test_are_those_of_the_sources(self, build, name):
        expected = {source: size / sum(DRAWN[name].values()) for source, size in DRAWN[name].items()}
        assert build(mixing=name).mixing.probabilities(3, 12) == pytest.approx(expected)

    def test_of_annealing_begin_at_the_sizes(self, build):
        mixing = build(mixing={"name": "annealed", "temperature": 4}).mixing
        first = {source: size / 12.5 for source, size in DRAWN["proportional"].items()}
        roots = {source: size**0.25 for source, size in DRAWN["proportional"].items()}
        assert mixing.probabilities(0, 12) == pytest.approx(first)
        assert mixing.probabilities(11, 12) == pytest.approx({k: v / sum(roots.values()) for k, v in roots.items()})

    def test_are_ratios_by_the_label_of_any_task_of_a_source(self, build):
        found = build(mixing=RATIOS).mixing.probabilities(0, 12)
        assert found == pytest.approx({"side": 3 / 4.5, "near": 1 / 4.5, "few": 0.5 / 4.5})

    def test_a_size_counts_in_batches_of_its_source(self, build):
        tasks = ["side", {**TASKS[2], "batch_size": 5}]
        assert build(tasks=tasks, mixing="proportional").mixing.sizes == {"side": 7.5, "near": 10}
        tasks = ["side", {**TASKS[2], "batch_size": 500}]  # of which it has one, whole
        assert build(tasks=tasks, mixing="proportional").mixing.sizes == {"side": 7.5, "near": 1}

    def test_all_is_the_default(self, build):
        assert build().mixing is None
        assert build(mixing="all").mixing is None


class TestEpoch:
    @pytest.mark.parametrize("accumulate", [1, 3])
    @pytest.mark.parametrize(
        ("mixing", "length", "batches"),
        [
            ("all", None, 8),
            ("all", "longest", 8),
            ("all", "shortest", 2),
            ("all", "sum", 14),
            ("uniform", None, 14),
            ("uniform", "longest", 8),
            ("uniform", "shortest", 2),
            (RATIOS, "sum", 14),
        ],
    )
    def test_has_the_stated_length(self, build, mixing, length, batches, accumulate):
        plan = build(
            mixing=mixing, training={**FREE, "epochs": 2, "epoch_length": length, "accumulate": accumulate}
        ).plan
        assert plan.steps_per_epoch == math.ceil(batches / accumulate)
        assert plan.steps == 2 * plan.steps_per_epoch

    def test_may_be_a_number_of_steps(self, build):
        assert build(mixing="uniform", training={"steps": None, "epochs": 3, "steps_per_epoch": 5}).plan.steps == 15

    def test_ends_when_its_steps_are_taken(self, train):
        told = []
        train(tasks=TASKS, mixing="proportional", training={**FREE, "epochs": 2}, listeners=[told.append])
        assert [each.step for each in told if isinstance(each, events.EpochFinished)] == [14, 28]

    def test_is_written_down(self, train):
        run = train(tasks=TASKS, mixing="uniform", training={**FREE, "epochs": 1})
        saved = load(run.folder / "config.yaml").data
        assert saved["training"]["epoch_length"] == "sum"
        assert saved["mixing"] == {"name": "uniform"}
        given = train(run={"name": "given"}, training={"steps_per_epoch": 4})
        assert load(given.folder / "config.yaml").data["training"]["epoch_length"] is None


class TestWhatIsRefused:
    def test_a_ratio_of_no_task(self, problems):
        text = "tasks: [side]\nmixing: {name: ratios, ratios: {side: 1, distnace: 2}}\n"
        ((what, place, remedy),) = problems(text)
        assert what == "No task is called 'distnace'"
        assert place == "run.yaml:2:52"
        assert remedy == "Known: side."

    def test_a_source_without_a_ratio(self, problems):
        tasks = "tasks: [side, {name: distance, options: {seed: 1}}]\n"
        ((what, place, remedy),) = problems(f"{tasks}mixing: {{name: ratios, ratios: {{side: 1}}}}\n")
        assert what == "How often the source of 'distance' is drawn is not said"
        assert place.startswith("run.yaml:2:")
        assert remedy == "Give 'distance' a number."

    def test_two_ratios_of_one_source(self, problems):
        ((what, place, _),) = problems(
            "tasks: [side, distance]\nmixing: {name: ratios, ratios: {side: 1, distance: 1}}\n"
        )
        assert what == "'distance' shares its source with another task here, and a source is drawn as one"
        assert place == "run.yaml:2:52"

    def test_a_size_that_a_typo_leaves_out(self, problems):
        ((what, *_),) = problems("tasks: [side]\nmixing: {name: proportional, sizes: {sied: 1}}\n")
        assert what == "How often the source of 'side' is drawn is not said"

    @pytest.mark.parametrize(
        ("mixing", "place"),
        [
            ("{name: temprature}", "run.yaml:2:16"),
            ("{name: temperature, temperature: 0}", "run.yaml:2:42"),
            ("{name: uniform, temperature: 2}", "run.yaml:2:25"),
            ("{name: ratios}", "run.yaml:2:9"),
            ("{name: ratios, ratios: {}}", "run.yaml:2:32"),
            ("{name: ratios, ratios: {side: 0}}", "run.yaml:2:39"),
            ("{name: proportional, sizes: {side: .inf}}", "run.yaml:2:44"),
        ],
    )
    def test_what_does_not_fit(self, problems, mixing, place):
        ((_, found, _),) = problems(f"tasks: [side]\nmixing: {mixing}\n")
        assert found == place

    def test_two_lengths_of_an_epoch(self, problems):
        ((what, place, _),) = problems("tasks: [side]\ntraining: {epoch_length: sum, steps_per_epoch: 3}\n")
        assert what == "Training takes either epoch_length or steps_per_epoch, and both are given"
        assert place == "run.yaml:2:11"


class TestRuns:
    def test_one_source_takes_part_in_a_pass(self, train, records):
        run = train(
            tasks=TASKS, mixing=RATIOS, training={"steps": 300, "steps_per_epoch": 300}, encoder={"layers": [4]}
        )
        steps = records(run.folder, "step")
        together = Counter(tuple(step["losses"]) for step in steps)
        assert set(together) == {("side", "far"), ("near",), ("few",)}
        for labels, ratio in (("side", "far"), 3), (("near",), 1), (("few",), 0.5):
            expected = 300 * ratio / 4.5
            assert abs(together[labels] - expected) < 3.5 * expected**0.5
        for step in steps:
            assert set(step["weights"]) == set(step["losses"])
            assert step["rows"] == {label: 16 * (label in step["losses"]) for label in ("side", "far", "near", "few")}

    def test_the_passes_of_a_step_draw_anew(self, train, records):
        run = train(tasks=TASKS, mixing="uniform", training={"accumulate": 4})
        steps = records(run.folder, "step")
        assert any(len(step["losses"]) > 2 for step in steps)
        for step in steps:
            assert step["rows"]["side"] + step["rows"]["near"] + step["rows"]["few"] == 4 * 16
            # Of four passes, each counts for a quarter of the step.
            assert sum(step["weights"][label] for label in ("side", "near", "few") if label in step["weights"]) == 1

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_every_strategy_stays_finite(self, train, records, strategy):
        few = {"steps": 12, "steps_per_epoch": 3, "batch_size": 8, "accumulate": 2}
        run = train(strategy=strategy, tasks=TASKS, mixing="uniform", training=few)
        steps = records(run.folder, "step")
        assert len({tuple(step["losses"]) for step in steps}) > 2
        assert all(
            math.isfinite(value) for step in steps for value in [*step["weights"].values(), *step["losses"].values()]
        )
        assert all(value.isfinite().all() for value in load_file(run.folder / "best" / "weights.safetensors").values())

    def test_what_is_not_drawn_is_untouched(self, build, train):
        """Absent is no gradient of zero: weight decay, say, would move what such a gradient reaches."""
        mixing = {"name": "ratios", "ratios": {"side": 1e6, "near": 1e-6, "few": 1e-6}}
        settings = {"tasks": TASKS, "mixing": mixing, "optimizer": {"name": "adamw", "lr": 0.1, "weight_decay": 0.5}}
        before = build(**settings).model.state_dict()
        run = train(**settings, checkpoints={"best": "last"})
        after = load_file(run.folder / "best" / "weights.safetensors")
        moved = {name.split(".")[1] for name, value in after.items() if not torch.equal(value, before[name])}
        assert {name for name in moved if name.startswith("task_")} == {"task_side", "task_far"}


class TestRows:
    def test_are_counted_by_task(self, train, records):
        tasks = [{"name": name, "options": {"gaps": 3}} for name in ("side", "distance")]
        run = train(tasks=tasks, training={"steps": 1, "batch_size": 120, "accumulate": 2})
        (step,) = records(run.folder, "step")
        assert step["rows"] == step["total_rows"] == {"side": 160, "distance": 160}

    def test_add_up_over_the_steps_between_records(self, train, records):
        every = train(run={"name": "every"}, tasks=TASKS, mixing="uniform")
        some = train(run={"name": "some"}, tasks=TASKS, mixing="uniform", training={"log_every": 5})
        sums = Counter()
        for step in records(every.folder, "step"):
            sums.update(step["rows"])
            assert step["total_rows"] == dict(sums)
        assert records(some.folder, "step")[-1]["total_rows"] == dict(sums)


class TestAgain:
    @pytest.mark.parametrize("mixing", ["all", {"name": "annealed", "temperature": 3.0}, RATIOS])
    @pytest.mark.parametrize("strategy", ["gradnorm", "famo"])
    def test_going_on_ends_as_if_never_stopped(self, train, mixing, strategy):
        def stop(event):
            if isinstance(event, events.StepFinished) and event.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

        settings = {"tasks": TASKS, "mixing": mixing, "strategy": strategy, "training": {"accumulate": 2}}
        whole = train(run={"name": "whole"}, **settings)
        with pytest.raises(Stopped):
            train(run={"name": "stopped"}, listeners=[stop], **settings)
        resumed = train(run={"name": "stopped"}, resume=True, **settings)
        for name in ("metrics.jsonl", "done.json", "best/weights.safetensors"):
            assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()

    def test_another_process_draws_the_same_batches(self, registry_with, toy):
        code = DRAWS.format(draw=inspect.getsource(draw), module=toy.Points.__module__)
        command = [sys.executable, "-c", code]
        theirs = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        ours = draw(registry_with())
        assert json.loads(theirs) == ours
        assert {name for name, _ in ours} == {"side", "1", "2"}
        assert len({tuple(rows) for _, rows in ours}) == 40


def draw(registry):
    """Return which source 40 passes draw from, and what they draw, as text that another process can compare."""
    tasks = ["side"] + [{"name": "distance", "label": str(n), "options": {"rows": 50, "seed": n}} for n in (1, 2)]
    training = {"batch_size": 4, "device": "cpu"}
    config = {"tasks": tasks, "mixing": "temperature", "run": {"seed": 3}, "training": training}
    experiment = mtlkit.build(config, registry=registry)
    drawn = []
    for number in range(40):
        name = experiment.mixing.drawn(number, number, 40)
        (group,) = (each for each in experiment.groups if each.name == name)
        drawn.append([name, group.stream.next().inputs[:, 0].tolist()])
    return drawn


DRAWS = """
import importlib
import json
import sys

import mtlkit
from mtlkit.registry import Record

{draw}

toy = importlib.import_module("{module}")
toy.side, toy.distance = mtlkit.plugin(toy.Side), mtlkit.plugin(toy.Distance)
records = mtlkit.Registry.discover().records()
records += [Record("tasks", name, "toy-plugin", "1.2.3", "{module}:" + name) for name in ("side", "distance")]
print(json.dumps(draw(mtlkit.Registry(records))))
"""


class TestAlone:
    """The budget of a baseline: as many steps, and as many rows of the task as together."""

    @pytest.mark.parametrize(
        "mixing",
        ["all", "proportional", "uniform", "temperature", {"name": "annealed", "temperature": 9.0}, RATIOS],
        ids=str,
    )
    def test_each_task_sees_the_rows_that_it_saw_together(self, configure, registry_with, records, toy, mixing):
        drawn = {}

        def watched(base):
            class Watched(base):
                def loss(self, output, target):
                    if output.requires_grad and len(target) == 16:
                        drawn.setdefault((type(self).__name__, self.points.seed), []).append(target.flatten().tolist())
                    return super().loss(output, target)

            Watched.__name__ = base.__name__
            return Watched

        given = {"side": watched(toy.Side), "distance": watched(toy.Distance)}
        config = configure(tasks=TASKS, mixing=mixing, training={"accumulate": 2}, evaluation={"batch_size": 999})
        result = mtlkit.baseline(config, registry=registry_with(**given))
        for batches in drawn.values():
            half = len(batches) // 2
            assert half > 0
            assert batches[:half] == batches[half:]
        last = {path.name: records(path, "step")[-1] for path in (result.folder / "seed-0").iterdir()}
        for label in ("side", "far", "near", "few"):
            assert last[label]["step"] == last["together"]["step"] == 12
            assert last[label]["total_rows"] == {label: last["together"]["total_rows"][label]}
        rates = {
            name: [step["learning_rate"] for step in records(result.folder / "seed-0" / name, "step")] for name in last
        }
        assert all(each == rates["together"] for each in rates.values())

    def test_runs_are_used_again(self, configure, registry_with):
        trials = []
        for _ in range(2):
            config = configure(tasks=TASKS, mixing={"name": "annealed", "temperature": 9.0})
            mtlkit.baseline(config, on_trial=trials.append, registry=registry_with())
        assert [trial.reused for trial in trials] == [False] * 5 + [True] * 5
