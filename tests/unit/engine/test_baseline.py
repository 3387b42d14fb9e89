"""The baseline: each task alone gets what it got together, and nothing is trained twice."""

import json
import math
import shlex
import signal
from statistics import fmean, stdev

import pytest
from click.testing import CliRunner

import mtlkit
from mtlkit import baselines
from mtlkit.cli import main
from mtlkit.engine import events
from mtlkit.errors import ConfigError, Stopped
from mtlkit.yamlfile import load

TASKS = ["side", {"name": "distance", "options": {"rows": 50, "seed": 2}}]
STRUCTURE = ("together", "side", "distance")


@pytest.fixture(name="compare")
def fixture_compare(configure, registry_with):
    """Return a function that compares, and tells of the trials and events."""

    def compare(*, tasks_given=None, seeds=1, listeners=(), **settings):
        trials, told = [], []
        result = mtlkit.baseline(
            configure(**{"tasks": TASKS, **settings}),
            seeds=seeds,
            listeners=[told.append, *listeners],
            on_trial=trials.append,
            registry=registry_with(**(tasks_given or {})),
        )
        return result, trials, told

    return compare


def stop_in_run(number, step):
    """Return a listener that stops after a step of the run of this number."""
    started = []

    def listen(event):
        if isinstance(event, events.RunStarted):
            started.append(event.folder)
        if isinstance(event, events.StepFinished) and (len(started), event.step) == (number, step):
            signal.raise_signal(signal.SIGINT)

    return listen


class TestBudget:
    def test_alone_is_that_of_together(self, compare, records):
        settings = {"training": {"steps": None, "steps_per_epoch": None, "epochs": 2}, "schedule": "cosine"}
        result, trials, _ = compare(strategy="gradnorm", evaluation={"every": 1}, **settings)
        assert [trial.name for trial in trials] == list(STRUCTURE)
        folders = [result.folder / "seed-0" / name for name in STRUCTURE]
        for folder in folders:
            assert json.loads((folder / "done.json").read_text(encoding="utf-8"))["steps"] == 16
            validations = [each for each in records(folder, "evaluation") if each["split"] == "validation"]
            assert [(each["step"], each["epoch"]) for each in validations] == [(8, 1), (16, 2)]
        rates = [[each["learning_rate"] for each in records(folder, "step")] for folder in folders]
        assert rates[0] == rates[1] == rates[2]

    @pytest.mark.parametrize("training", [{"steps": 5}, {"accumulate": 2, "steps": 5}])
    def test_alone_sees_the_same_rows_in_the_same_order(self, compare, toy, training):
        drawn = {}

        class Distance(toy.Distance):
            def loss(self, output, target):
                if len(target) == 16 and output.requires_grad:
                    drawn.setdefault(self.points.seed, []).append(target[:, 0].tolist())
                return super().loss(output, target)

        tasks = [
            {"name": "distance", "label": "near"},
            {"name": "distance", "label": "far", "options": {"rows": 50, "seed": 2}},
        ]
        compare(tasks_given={"distance": Distance}, tasks=tasks, training=training, evaluation={"batch_size": 999})
        passes = 5 * training.get("accumulate", 1)
        for batches in drawn.values():
            assert len(batches) == 2 * passes
            assert batches[:passes] == batches[passes:]
        assert drawn[0] != drawn[2]

    def test_alone_begins_from_the_same_weights(self, compare, records):
        result, _, _ = compare(optimizer={"name": "sgd", "lr": 0.1})
        together, side, distance = (records(result.folder / "seed-0" / name, "step")[0] for name in STRUCTURE)
        assert together["losses"]["side"] == side["losses"]["side"]
        assert together["losses"]["distance"] == distance["losses"]["distance"]

    def test_alone_is_plain(self, compare):
        """One task has nothing to be weighed against, and its weight no meaning."""
        result, _, _ = compare(
            strategy={"name": "gradnorm", "alpha": 0.5},
            tasks=["side", {"name": "distance", "weight": 3.0}],
            checkpoints={"best": "side/accuracy"},
        )
        alone = {name: load(result.folder / "seed-0" / name / "config.yaml").data for name in STRUCTURE}
        assert [config["strategy"]["name"] for config in alone.values()] == [
            "mtlkit:gradnorm",
            "mtlkit:fixed",
            "mtlkit:fixed",
        ]
        assert alone["distance"]["tasks"][0]["weight"] == 1
        assert [config["checkpoints"]["best"] for config in alone.values()] == [
            "side/accuracy",
            "side/accuracy",
            "loss",
        ]


class TestReuse:
    def test_of_all_runs_that_are_finished(self, compare):
        first, trials, _ = compare()
        assert [trial.reused for trial in trials] == [False] * 3
        second, trials, told = compare()
        assert [(trial.name, trial.number, trial.of, trial.reused) for trial in trials] == [
            ("together", 1, 3, True),
            ("side", 2, 3, True),
            ("distance", 3, 3, True),
        ]
        assert told == []
        assert second == first

    def test_of_the_run_that_train_made(self, compare, train):
        run = train(tasks=TASKS)
        result, trials, _ = compare()
        assert [trial.reused for trial in trials] == [True, False, False]
        assert not (result.folder / "seed-0" / "together").exists()
        assert result.comparison.tasks["side"].together.values == (run.results["side"].metrics["accuracy"],)

    @pytest.mark.parametrize("change", [{"training": {"steps": 11}}, {"strategy": "gradnorm"}, {"run": {"seed": 1}}])
    def test_not_of_a_run_that_was_another(self, compare, train, change):
        train(**{"tasks": TASKS, **change})
        _, trials, _ = compare()
        assert [trial.reused for trial in trials] == [False] * 3

    def test_of_earlier_seeds(self, compare):
        first, _, _ = compare()
        more, trials, _ = compare(seeds=2)
        assert [(trial.seed, trial.reused) for trial in trials] == [(0, True)] * 3 + [(1, False)] * 3
        assert more.comparison.tasks["side"].alone.values[:1] == first.comparison.tasks["side"].alone.values

    @pytest.mark.parametrize("number", [1, 2])
    def test_goes_on_where_it_was_stopped(self, compare, number):
        whole, _, _ = compare(run={"name": "whole"})
        with pytest.raises(Stopped, match=rf"seed-0.{STRUCTURE[number - 1]}\."):
            compare(run={"name": "stopped"}, listeners=[stop_in_run(number, 5)])
        resumed, trials, told = compare(run={"name": "stopped"})
        assert [trial.reused for trial in trials] == [True] * (number - 1) + [False] * (4 - number)
        assert told[0].step == 5
        assert resumed.comparison == whole.comparison


class TestComparison:
    def test_of_one_seed_has_no_interval(self, compare):
        result, _, _ = compare()
        comparison = result.comparison
        assert comparison.seeds == (0,)
        for task in comparison.tasks.values():
            assert task.gain.interval is None
        assert comparison.delta_m.interval is None
        assert comparison.delta_m.mean == pytest.approx(fmean(t.gain.mean for t in comparison.tasks.values()))

    def test_of_several_seeds_has_students_interval(self, compare):
        result, trials, _ = compare(seeds=2, run={"seed": 3})
        assert [trial.seed for trial in trials] == [3, 3, 3, 4, 4, 4]
        comparison = result.comparison
        assert comparison.seeds == (3, 4)
        estimate = comparison.tasks["distance"].difference
        low, high = estimate.interval
        half = 12.706204736 * stdev(estimate.values) / math.sqrt(2)
        assert (low, high) == pytest.approx((estimate.mean - half, estimate.mean + half))
        assert comparison.delta_m.interval is not None

    def test_of_no_seeds_is_refused(self, compare):
        with pytest.raises((ConfigError, ValueError), match="seeds"):
            compare(seeds=0)

    def test_holds_the_test_metrics_of_the_runs(self, compare):
        result, _, _ = compare()
        tests = {
            name: json.loads((result.folder / "seed-0" / name / "done.json").read_text(encoding="utf-8"))["test"]
            for name in STRUCTURE
        }
        for label, metric, sign in (("side", "accuracy", 1), ("distance", "mse", -1)):
            task = result.comparison.tasks[label]
            alone, together = tests[label][label]["metrics"][metric], tests["together"][label]["metrics"][metric]
            assert (task.alone.values, task.together.values) == ((alone,), (together,))
            assert task.difference.mean == pytest.approx(together - alone)
            assert task.gain.mean == pytest.approx(sign * 100 * (together - alone) / alone)
            assert (task.headline.metric, task.headline.higher_is_better) == (metric, sign > 0)

    def test_of_a_task_alone_with_itself_says_nothing_changed(self, compare):
        result, _, _ = compare(tasks=["side"])
        assert result.comparison.delta_m.mean == 0
        assert result.comparison.delta_m.verdict == "no difference seen"

    def test_of_a_task_that_is_called_together(self, compare):
        result, trials, _ = compare(tasks=[{"name": "side", "label": "together"}, "distance"])
        assert len(trials) == 3
        assert {label: len(task.alone.values) for label, task in result.comparison.tasks.items()} == {
            "together": 1,
            "distance": 1,
        }


class TestCommandLine:
    @pytest.fixture(name="run")
    def fixture_run(self, tmp_path):
        """Return a function that runs ``mtlkit baseline`` on digits."""

        def run(*arguments):
            config = tmp_path / "run.yaml"
            settings = {
                "run": {"name": "cli", "dir": str(tmp_path)},
                "tasks": ["digit", "parity"],
                "encoder": {"name": "mlp", "layers": [8]},
                "training": {"steps": 6, "steps_per_epoch": 3, "threads": 1, "device": "cpu"},
            }
            config.write_text(json.dumps(settings), encoding="utf-8")
            return CliRunner().invoke(main, ["baseline", str(config), *arguments])

        return run

    def test_prints_json(self, run, tmp_path):
        result = run("--seeds", "2", "--json")
        assert result.exit_code == 0, result.output
        printed = json.loads(result.stdout)
        assert printed["seeds"] == [0, 1]
        assert set(printed["tasks"]) == {"digit", "parity"}
        for task in printed["tasks"].values():
            assert task["metric"] == "accuracy"
            assert task["higher_is_better"] is True
            assert len(task["gain"]["values"]) == 2
            low, high = task["gain"]["interval"]
            assert low <= task["gain"]["mean"] <= high
        assert printed["folder"] == str(tmp_path / "cli-baseline")

    def test_prints_a_table_and_a_sentence(self, run):
        result = run()
        assert result.exit_code == 0, result.output
        assert "alone" in result.stdout
        assert "together" in result.stdout
        assert "Delta_m" in result.stdout
        assert "[3/3] seed 0, parity alone" in result.stderr
        again = run()
        assert "[3/3] seed 0, parity alone  (finished already)" in again.stderr
        assert again.stdout == result.stdout

    def test_says_how_to_go_on(self, run, monkeypatch):
        def stop(*_, **__):
            raise Stopped("Stopped.", signal.SIGINT)

        monkeypatch.setattr(baselines, "baseline", stop)
        result = run("run.dir=my runs", "--seeds", "3")
        assert result.exit_code == 130
        command = shlex.split(result.output.partition("Go on with: ")[2])
        assert command[:2] == ["mtlkit", "baseline"]
        assert command[3:] == ["run.dir=my runs", "--seeds", "3"]


class TestWhatWasThereBefore:
    def test_runs_of_another_configuration_are_told_before_anything_is_trained(self, compare):
        first, _, _ = compare()
        with pytest.raises(ConfigError, match="Runs of another configuration") as caught:
            compare(encoder={"name": "mlp", "layers": [9]})
        assert all(str(first.folder / "seed-0" / name) in str(caught.value) for name in STRUCTURE)

    def test_runs_by_another_version_are_not_passed_off_as_this_one(self, compare):
        result, _, _ = compare()
        path = result.folder / "seed-0" / "side" / "environment.json"
        before = json.loads(path.read_text(encoding="utf-8"))
        del before["seal"]  # which would tell of the edit
        path.write_text(json.dumps(before | {"torch": "1.0"}), encoding="utf-8")
        with pytest.raises(ConfigError, match="by other versions") as caught:
            compare()
        assert str(path.parent) in str(caught.value)

    def test_a_signal_at_the_end_of_a_run_stops_before_the_next(self, compare):
        def late(event):
            if isinstance(event, events.RunFinished):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(Stopped, match="after run 1 of 3"):
            compare(listeners=[late])
