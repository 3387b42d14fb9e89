"""A whole run: what it leaves behind, that it is the same each time, which weights are its result, how it fails."""

import json
import random
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mtlkit
from mtlkit.engine import events
from mtlkit.errors import ConfigError, NonFiniteError, PluginError

# High enough for the validation losses to go up and down.
ROUGH = {
    "optimizer": {"name": "adam", "lr": 0.4},
    "training": {"steps": 24, "steps_per_epoch": 2, "batch_size": 8},
    "checkpoints": {"keep": 99},
}


class TestResult:
    def test_is_what_the_run_folder_says(self, train, tmp_path):
        run = train()
        done = json.loads((run.folder / "done.json").read_text(encoding="utf-8"))
        assert run.folder == tmp_path / "toy"
        assert (run.steps, run.best_step) == (done["steps"], done["best_step"]) == (12, 12)
        assert {label: vars(result) for label, result in run.results.items()} == done["test"]
        assert list(run.results) == ["side", "distance"]
        assert run.results["side"].rows == 45

    def test_leaves_the_documented_files(self, train):
        run = train()
        assert sorted(path.name for path in run.folder.iterdir()) == [
            "best",
            "checkpoints",
            "config.yaml",
            "done.json",
            "environment.json",
            "lock.json",
            "metrics.jsonl",
            "timings.jsonl",
        ]
        assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["step-000008", "step-000012"]
        suffixes = {path.suffix for path in run.folder.rglob("*") if path.is_file()}
        assert suffixes == {".json", ".jsonl", ".safetensors", ".yaml"}

    def test_names_what_it_was_made_with(self, train):
        environment = json.loads((train().folder / "environment.json").read_text(encoding="utf-8"))
        assert environment["torch"] == torch.__version__
        assert environment["mtlkit"] == mtlkit.__version__
        plugins = [(each["kind"], each["name"], each["distribution"]) for each in environment["plugins"]]
        assert plugins == [
            ("architectures", "hard-sharing", "mtlkit"),
            ("encoders", "mlp", "mtlkit"),
            ("strategies", "fixed", "mtlkit"),
            ("tasks", "distance", "toy-plugin"),
            ("tasks", "side", "toy-plugin"),
        ]
        assert environment["plugins"][-1]["version"] == "1.2.3"

    def test_configuration_kept_makes_the_same_run(self, train, configure, registry_with, weights, tmp_path):
        run = train(strategy="gradnorm", encoder={"name": "mlp", "layers": [8], "dropout": 0.2})
        kept = run.folder / "config.yaml"
        moved = tmp_path / "moved.yaml"
        moved.write_text(kept.read_text(encoding="utf-8").replace("name: toy\n", "name: again\n"), encoding="utf-8")
        again = mtlkit.train(moved, registry=registry_with())
        assert again.folder.name == "again"
        assert weights(again.folder) == weights(run.folder)

    def test_never_takes_the_place_of_another(self, train, weights):
        run = train()
        before = weights(run.folder)
        with pytest.raises(ConfigError, match=r"exists already.*run\.name=toy-2") as caught:
            train(run={"seed": 1})
        assert caught.value.exit_code == 2
        assert weights(run.folder) == before


class TestRecords:
    def test_have_the_documented_fields(self, train, records):
        run = train(strategy="gradnorm")
        each = records(run.folder)
        assert {record["event"] for record in each} == {"step", "evaluation"}
        for record in each:
            if record["event"] == "step":
                assert set(record) == {
                    "event",
                    "step",
                    "learning_rate",
                    "losses",
                    "weights",
                    "weighted_losses",
                    "gradient_norms",
                    "rows",
                    "total_rows",
                    "skipped",
                    "non_finite_steps",
                    "non_finite",
                }
            else:
                assert set(record) == {"event", "step", "epoch", "split", "tasks"}
                assert set(record["tasks"]["distance"]) == {"loss", "metrics", "rows"}
                assert list(record["tasks"]["distance"]["metrics"]) == ["mse", "mae"]
        assert [record["split"] for record in each if "split" in record] == ["validation"] * 3 + ["test"]
        assert each[-1]["split"] == "test"
        assert each[-1]["step"] == run.best_step

    def test_keep_times_apart(self, train):
        run = train()
        assert "second" not in (run.folder / "metrics.jsonl").read_text(encoding="utf-8")
        timings = (run.folder / "timings.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["step"] for line in timings] == list(range(1, 13))
        assert all(json.loads(line)["seconds"] > 0 for line in timings)

    @pytest.mark.parametrize("name", ["metrics.jsonl", "done.json"])
    def test_are_json_where_a_task_has_no_number(self, train, toy, name):
        """NaN is no JSON, and other programs refuse a line with it."""

        class Unseen(toy.Points):
            def splits(self):
                splits = super().splits()
                for split in ("validation", "test"):
                    splits[split].targets["side"][:] = -100
                return splits

        class Side(toy.Side):
            def source(self):
                return Unseen()

        def refuse(constant):
            raise AssertionError(f"{constant} is no JSON")

        run = train(tasks_given={"side": Side})
        text = (run.folder / name).read_text(encoding="utf-8")
        for part in text.splitlines() if name.endswith("l") else [text]:
            json.loads(part, parse_constant=refuse)

    def test_and_events_say_the_same(self, train, records):
        told = []
        run = train(listeners=[told.append])
        steps = [event for event in told if isinstance(event, events.StepRecorded)]
        assert [{"event": "step", **vars(event)} for event in steps] == records(run.folder, "step")
        assert [event.step for event in told if isinstance(event, events.StepFinished)] == list(range(1, 13))
        assert [event.step for event in told if isinstance(event, events.CheckpointWritten)] == [4, 8, 12]
        assert isinstance(told[0], events.RunStarted)
        assert (told[0].step, told[0].steps, told[0].steps_per_epoch) == (0, 12, 4)
        assert list(told[0].labels) == ["side", "distance"]
        assert isinstance(told[-1], events.RunFinished)
        assert told[-1].results == run.results
        evaluations = [event for event in told if isinstance(event, events.EvaluationFinished)]
        assert [event.split for event in evaluations] == ["validation"] * 3 + ["test"]


class TestRandomness:
    DROPPING = types.MappingProxyType({"name": "mlp", "layers": [8], "dropout": 0.3})

    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
    def test_same_seed_gives_the_same_bytes(self, train, weights, strategy):
        first = train(run={"name": "a"}, strategy=strategy, encoder=dict(self.DROPPING))
        torch.manual_seed(99)
        random.seed(99)
        np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
        second = train(run={"name": "b"}, strategy=strategy, encoder=dict(self.DROPPING))
        assert weights(first.folder) == weights(second.folder)
        for name in ("metrics.jsonl", "done.json"):
            assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()

    def test_other_seed_gives_others(self, train, weights, records):
        first, second = (train(run={"name": f"seed-{seed}", "seed": seed}) for seed in (0, 1))
        assert weights(first.folder) != weights(second.folder)
        assert records(first.folder, "step")[0] != records(second.folder, "step")[0]

    def test_dropout_is_drawn(self, train, weights):
        plain = train(run={"name": "a"})
        dropping = train(run={"name": "b"}, encoder=dict(self.DROPPING))
        assert weights(plain.folder) != weights(dropping.folder)

    def test_tasks_begin_alike_whichever_others_there_are(self, configure, registry_with):
        registry = registry_with()
        both = mtlkit.build(configure(), registry=registry).model
        alone = mtlkit.build(configure(tasks=["distance"]), registry=registry).model
        for name, tensor in alone.state_dict().items():
            assert torch.equal(tensor, both.state_dict()[name])


class TestSplits:
    def test_the_test_split_is_not_read_before_the_end(self, train, toy):
        class Sealed(mtlkit.Split):
            opened = False

            def take(self, rows):
                assert type(self).opened, "the test split was read too early"
                return mtlkit.Split(self.inputs, self.targets).take(rows)

        class Guarded(toy.Points):
            def splits(self):
                splits = super().splits()
                return {**splits, "test": Sealed(splits["test"].inputs, splits["test"].targets)}

        class Side(toy.Side):
            def source(self):
                return Guarded()

        def open_at_the_end(event):
            if isinstance(event, events.CheckpointWritten) and event.step == 12:
                Sealed.opened = True

        with pytest.raises(AssertionError, match="read too early"):
            Guarded().splits()["test"].take(torch.arange(3))
        run = train(tasks_given={"side": Side}, tasks=["side"], listeners=[open_at_the_end])
        assert run.results["side"].rows == 45

    def test_that_a_source_lacks_are_carved_apart(self, configure, registry_with, toy):
        class Numbered(toy.Points):
            def splits(self):
                rows = torch.arange(100.0)
                return {"train": mtlkit.Split(rows[:, None].repeat(1, 6), {"distance": rows[:, None]})}

        class Distance(toy.Distance):
            def source(self):
                return Numbered()

        (group,) = mtlkit.build(configure(tasks=["distance"]), registry=registry_with(distance=Distance)).groups
        rows = {name: set(split.targets["distance"][:, 0].tolist()) for name, split in group.splits.items()}
        assert {name: len(each) for name, each in rows.items()} == {"train": 70, "validation": 10, "test": 20}
        assert set.union(*rows.values()) == set(map(float, range(100)))


class TestBest:
    @pytest.fixture(name="validations")
    def fixture_validations(self, records):
        """Return a function that reads what each evaluation said of the tasks, by step."""

        def validations(folder):
            each = [record for record in records(folder, "evaluation") if record["split"] == "validation"]
            return {record["step"]: record["tasks"] for record in each}

        return validations

    def check(self, run, best_step):
        """Check that the weights of the best step are the result."""
        assert run.best_step == best_step
        saved = load_file(run.folder / "checkpoints" / f"step-{best_step:06d}" / "weights.safetensors")
        best = load_file(run.folder / "best" / "weights.safetensors")
        assert all(torch.equal(best[name], saved[name]) for name in saved)

    def test_loss_is_relative_and_weighted(self, train, validations):
        run = train(**ROUGH, tasks=["side", {"name": "distance", "weight": 0.01}])
        first, *_ = seen = validations(run.folder)
        scores = {
            step: tasks["side"]["loss"] / seen[first]["side"]["loss"]
            + 0.01 * tasks["distance"]["loss"] / seen[first]["distance"]["loss"]
            for step, tasks in seen.items()
        }
        best = min(scores, key=scores.get)
        assert best not in {first, run.steps}, "a rougher training would test more"
        self.check(run, best)

    def test_last(self, train):
        settings = {**ROUGH, "checkpoints": {"keep": 99, "best": "last"}}
        self.check(train(**settings), 24)

    @pytest.mark.parametrize(
        ("task", "metric", "choose"), [("side", "accuracy", max), ("distance", "mse", min), ("distance", "mae", min)]
    )
    def test_one_metric(self, train, validations, task, metric, choose):
        run = train(**{**ROUGH, "checkpoints": {"keep": 99, "best": f"{task}/{metric}"}})
        values = {step: tasks[task]["metrics"][metric] for step, tasks in validations(run.folder).items()}
        best = choose(values, key=values.get)
        assert best != run.steps, "a rougher training would test more"
        self.check(run, best)

    def test_events_mark_each_best_so_far(self, train):
        told = []
        run = train(**ROUGH, listeners=[told.append])
        marked = [event.step for event in told if isinstance(event, events.EvaluationFinished) and event.is_best]
        assert marked[-2:] == [run.best_step] * 2  # at validation, and at the test
        assert 2 < len(marked) < 13

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            ("side/mse", "Task 'side' has no metric 'mse'.*Known: accuracy"),
            ("sides/accuracy", "No task is called 'sides'.*Did you mean 'side'"),
        ],
    )
    def test_unknown_rule(self, train, tmp_path, rule, message):
        with pytest.raises(ConfigError, match=message):
            train(checkpoints={"best": rule})
        assert not (tmp_path / "toy").exists()


class TestFailures:
    def failing(self, base, fail, *, after=6):
        """Return a task whose loss is what `fail` makes of it, from one training step on."""

        class Failing(base):
            calls = 0

            def loss(self, output, target):
                loss = super().loss(output, target)
                type(self).calls += torch.is_grad_enabled() and len(target) == 16
                return fail(loss) if type(self).calls > after else loss

        return Failing

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("strategy", ["fixed", "gradnorm"])
    def test_loss_that_is_not_finite(self, train, toy, value, strategy):
        task = self.failing(toy.Side, lambda loss: loss * 0 + value)
        with pytest.raises(NonFiniteError, match=rf"Non-finite loss of 'side' \({value}\).*step 7") as caught:
            train(tasks_given={"side": task}, strategy=strategy)
        assert caught.value.exit_code == 6
        assert "distance" not in str(caught.value)

    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
    def test_gradient_that_is_not_finite(self, train, toy, strategy, tmp_path):
        """The gradient of sqrt at 0 is infinite, and times 0 not a number; the loss itself is finite."""
        task = self.failing(toy.Side, lambda loss: loss + (loss * 0).sqrt(), after=11)
        with pytest.raises(NonFiniteError):
            train(tasks_given={"side": task}, strategy=strategy)
        assert not (tmp_path / "toy" / "done.json").exists()

    def test_the_run_can_be_read_up_to_the_last_checkpoint(self, train, toy, configure, registry_with):
        task = self.failing(toy.Side, lambda loss: loss * float("nan"))
        with pytest.raises(NonFiniteError):
            train(tasks_given={"side": task})
        folder = configure()["run"]["dir"]
        step, results = mtlkit.evaluate(f"{folder}/toy", registry=registry_with())
        assert step == 4
        assert results["side"].loss < 1

    def test_loss_that_raises_in_mid_training(self, train, toy, tmp_path):
        def fail(_):
            raise RuntimeError("out of ideas.")

        with pytest.raises(PluginError) as caught:
            train(tasks_given={"side": self.failing(toy.Side, fail)})
        message = str(caught.value)
        assert message.startswith("The loss of task 'side' failed (toy-plugin 1.2.3, entry point mtlkit.tasks: side = ")
        assert "RuntimeError: out of ideas. Head output of shape (16, 2) and dtype torch.float32." in message
        assert caught.value.exit_code == 3
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert (tmp_path / "toy" / "checkpoints" / "step-000004").is_dir()

    @pytest.mark.parametrize(
        ("part", "replacement", "message"),
        [
            ("source", lambda self: 1 / 0, "The source of task 'side' failed .*ZeroDivisionError"),
            ("head", lambda self, features: 1 / 0, "The head of task 'side' failed .*ZeroDivisionError"),
            ("head", lambda self, features: None, "The head of task 'side' is no torch module"),
            ("head", lambda self, features: torch.nn.Linear(3, 2), "The head of task 'side' failed .*shape"),
            ("metrics", lambda self: 1 / 0, "The metrics of task 'side' failed .*ZeroDivisionError"),
            ("metrics", lambda self: {}, "'side' needs a first metric"),
            ("loss", lambda self, output, target: 3.0, "loss of task 'side' must be a scalar.*received 3.0"),
            ("loss", lambda self, output, target: output, r"loss of task 'side' must be a scalar.*shape \(8, 2\)"),
            ("loss", lambda self, output, target: torch.ones(()), "depends on nothing that can be trained"),
            ("labelled", lambda self, target: 1 / 0, r"The labelled\(\) of task 'side' failed .*ZeroDivisionError"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_of_a_task_are_found_before_the_run_begins(self, train, toy, tmp_path, part, replacement, message):
        task = type("Broken", (toy.Side,), {part: replacement})
        with pytest.raises(PluginError, match=message) as caught:
            train(tasks_given={"side": task})
        assert "toy-plugin 1.2.3" in str(caught.value)
        assert not (tmp_path / "toy").exists()

    @pytest.mark.parametrize(
        ("shape", "error", "message"),
        [
            ((-1, 6), ConfigError, "Mlp takes numbers, and a row here holds whole numbers of shape .* at encoder"),
            ((-1, 2, 3), PluginError, "The encoder cannot take the rows of 'side'"),
        ],
    )
    def test_rows_that_the_encoder_cannot_take(self, train, toy, tmp_path, shape, error, message):
        """An error of the user's data or of a plugin's encoder is not a bug in mtlkit."""

        class Whole(toy.Points):
            def splits(self):
                return {
                    name: mtlkit.Split((10 * split.inputs).long().reshape(shape), split.targets)
                    for name, split in super().splits().items()
                }

        class Side(toy.Side):
            def source(self):
                return Whole()

        with pytest.raises(error, match=message):
            train(tasks_given={"side": Side}, tasks=["side"])
        assert not (tmp_path / "toy").exists()


class TestGlobalState:
    @staticmethod
    def state():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002 - the global state is what is looked at
            random.getstate(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
        )

    @pytest.fixture(name="threads", params=[1, 2])
    def fixture_threads(self, request):
        before = torch.get_num_threads()
        torch.set_num_threads(request.param)
        yield request.param
        torch.set_num_threads(before)

    @pytest.mark.parametrize("deterministic", [True, False])
    def test_is_as_it_was_after_a_run(self, train, threads, deterministic):
        before = self.state()
        train(training={"deterministic": deterministic, "threads": 3 - threads})
        assert self.state() == before

    @pytest.mark.parametrize("deterministic", [True, False])
    @pytest.mark.parametrize("warn_only", [True, False])
    def test_keeps_the_callers_determinism(self, train, deterministic, warn_only):
        torch.use_deterministic_algorithms(mode=True, warn_only=warn_only)
        try:
            before = self.state()
            train(training={"deterministic": deterministic})
            assert self.state() == before
        finally:
            torch.use_deterministic_algorithms(mode=False)

    def test_is_as_it_was_after_a_failure(self, train, toy):
        class Side(toy.Side):
            def loss(self, output, target):
                return super().loss(output, target) if len(target) != 16 else 1 / 0

        before = self.state()
        with pytest.raises(PluginError):
            train(tasks_given={"side": Side})
        assert self.state() == before

    def test_is_as_it_was_after_check_build_and_evaluate(self, train, configure, registry_with):
        run = train()
        registry = registry_with()
        before = self.state()
        mtlkit.build(configure(), registry=registry)
        mtlkit.check(configure(), registry=registry)
        mtlkit.evaluate(run.folder, registry=registry)
        assert self.state() == before

    def test_run_settings_hold_during_the_run(self, train):
        seen = []
        train(
            training={"threads": 1},
            listeners=[lambda _: seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))],
        )
        assert set(seen) == {(1, True)}


class TestHooks:
    class Listening:
        """A plugin that is told of a run."""

        def __init__(self):
            self.told = []

        @mtlkit.hookimpl
        def mtlkit_run_started(self, event):
            self.told.append(("started", event.step))

        @mtlkit.hookimpl
        def mtlkit_step_recorded(self, event):
            self.told.append(("recorded", event.step))

        @mtlkit.hookimpl
        def mtlkit_evaluation_finished(self, event):
            self.told.append((event.split, event.step))

        @mtlkit.hookimpl
        def mtlkit_checkpoint_written(self, event):
            self.told.append(("saved", event.step))

        @mtlkit.hookimpl
        def mtlkit_run_finished(self, event):
            self.told.append(("finished", event.best_step))

    class Raising:
        """A plugin that breaks."""

        @mtlkit.hookimpl
        def mtlkit_evaluation_finished(self, event):
            raise ValueError("no connection")

    def test_are_told_of_a_run(self, train):
        listening = self.Listening()
        train(tasks_given={"listening": listening}, hooks=["listening"], training={"steps": 2, "steps_per_epoch": 2})
        assert listening.told == [
            ("started", 0),
            ("recorded", 1),
            ("recorded", 2),
            ("validation", 2),
            ("saved", 2),
            ("test", 2),
            ("finished", 2),
        ]

    def test_are_not_told_unless_named(self, train):
        listening = self.Listening()
        train(tasks_given={"listening": listening})
        assert listening.told == []

    def test_that_raise_only_warn(self, train, weights):
        undisturbed = train(run={"name": "undisturbed"})
        listening = self.Listening()
        with pytest.warns(UserWarning, match="no connection") as caught:
            run = train(tasks_given={"raising": self.Raising(), "listening": listening}, hooks=["raising", "listening"])
        assert len(caught) == 1  # it fails at each of four evaluations, and is told of once
        assert str(caught[0].message).startswith(
            "The hook mtlkit_evaluation_finished of toy-plugin 1.2.3, entry point mtlkit.plugins: raising = "
            "toy_plugin:raising raised ValueError: no connection. The run goes on without it"
        )
        assert weights(run.folder) == weights(undisturbed.folder)
        assert listening.told[-1] == ("finished", 12)

    def test_that_are_not_installed(self, train, tmp_path):
        with pytest.raises(ConfigError, match=r"Unknown plugin 'listning'.*hooks"):
            train(hooks=["listning"])
        assert not (tmp_path / "toy").exists()
