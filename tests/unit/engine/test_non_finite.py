"""Runs that come upon values that are NaN or infinite: what they do, keep, count and say."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import mtlkit
from mtlkit import heads
from mtlkit.engine import events
from mtlkit.errors import NonFiniteError, Stopped

BAD = [2, 12]  # rows of the source; the third batch holds one
FILES = ["metrics.jsonl", "done.json", "best/weights.safetensors", "checkpoints/step-000012/state.safetensors"]


@pytest.fixture(name="bad")
def fixture_bad(toy):
    """The task 'distance' on rows of which some are not finite."""

    @dataclass(frozen=True)
    class BadPoints(toy.Points):
        def splits(self):
            splits = super().splits()
            splits["train"].inputs[BAD, 2] = math.nan
            return splits

    class Bad(toy.Distance):
        def __init__(self, *, rows: int = 64, seed: int = 3) -> None:
            self.points = BadPoints(rows, seed)

    return Bad


@pytest.fixture(name="run")
def fixture_run(train, bad):
    """Return a function that trains 'side' beside the task with bad rows, 4 steps of 16 rows a pass, 3 passes."""

    def run(name="toy", **settings):
        training = settings.pop("training", {})
        settings = {"encoder": {"name": "mlp", "layers": [8], "dropout": 0.2}, "tasks": ["side", "bad"], **settings}
        return train(tasks_given={"bad": bad}, run={"name": name}, training=training, **settings)

    return run


def bad_steps(order):
    """Return the steps, from 1, whose batch holds a bad row, with these rows' places in it."""
    found = {}
    for step in range(12):
        rows = order.rows(16 * step, 16).tolist()
        places = [place for place, row in enumerate(rows) if row in BAD]
        if places:
            found[step + 1] = (places, [rows[place] for place in places])
    return found


@pytest.fixture(name="expected")
def fixture_expected(configure, registry_with, bad):
    """The steps that are to be found, with the rows."""
    experiment = mtlkit.build(configure(tasks=["side", "bad"]), registry=registry_with(bad=bad))
    return bad_steps(experiment.groups[1].stream.order)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


class TestStop:
    def test_says_what_where_whose_and_what_may_help(self, run, expected, tmp_path):
        with pytest.raises(NonFiniteError) as caught:
            run()
        step = min(expected)
        places, rows = expected[step]
        error, told = caught.value, str(caught.value)
        assert error.exit_code == 6
        assert step == 3
        for part in (
            "Non-finite loss of 'bad' (nan) in row {} of the batch ".format(*places),
            "(row {} of the training split), from the inputs on, in step 3 ".format(*rows),
            "in step 3 (toy-plugin 1.2.3, entry point mtlkit.tasks: bad = toy_plugin:bad). ",
            "The weights are as they were after step 2, where the run is saved. ",
            "Fill in such rows or leave them out; mtlkit check looks for them. ",
            f"go on without the task in such a step: mtlkit resume {tmp_path / 'toy'} training.non_finite=skip-task; ",
        ):
            assert part in told
        parts = error.to_dict()
        assert (parts["what"], parts["step"], parts["tasks"]) == ("loss", step, ["bad"])
        assert parts["found"][0]["split_rows"] == rows
        json.dumps(parts)

    @pytest.mark.parametrize("strategy", ["fixed", "rlw", "moco", "famo", "auto-lambda", "uncertainty", "dwa"])
    def test_a_run_goes_on_from_there_as_if_it_had_never_stopped(self, run, strategy, tmp_path):
        """With the policy by which it would not have."""
        whole = run("whole", strategy=strategy, training={"non_finite": "skip-step"})
        with pytest.raises(NonFiniteError):
            run("stopped", strategy=strategy)
        other = {"training": {"non_finite": "skip-step"}, "allow": ["training.non_finite"]}
        resumed = run("stopped", strategy=strategy, resume=True, **other)
        assert contents(resumed.folder) == contents(whole.folder)
        assert resumed.skipped == whole.skipped > 0

    def test_the_last_good_state_is_saved(self, run, expected, records, tmp_path):
        emitted = []
        with pytest.raises(NonFiniteError, match=f"after step {min(expected) - 1}, where the run is saved"):
            run(listeners=[emitted.append], checkpoints={"every": 3})
        assert emitted[-2].step == min(expected) - 1
        assert emitted[-2].folder.is_dir()
        assert isinstance(emitted[-1], events.NonFiniteFound)
        assert (emitted[-1].step, emitted[-1].action) == (min(expected), "stop")
        assert records(tmp_path / "toy", "non_finite")[0]["action"] == "stop"

    def test_before_the_first_step_there_is_nothing_to_save(self, run, train, toy, tmp_path):
        class Never(toy.Distance):
            def loss(self, output, target):
                return super().loss(output, target) * (math.nan if torch.is_grad_enabled() and len(target) == 16 else 1)

        with pytest.raises(NonFiniteError, match=r"in step 1 .*No weight was moved yet\."):
            train(tasks_given={"never": Never}, tasks=["never"])
        assert not (tmp_path / "toy" / "checkpoints").exists()


class TestSkip:
    @pytest.mark.parametrize("policy", ["skip-task", "skip-step"])
    def test_is_recorded_counted_and_told_of(self, run, records, expected, policy):
        emitted = []
        done = run(training={"non_finite": policy}, listeners=[emitted.append])
        written = records(done.folder, "non_finite")
        assert [record["step"] for record in written] == sorted(expected)
        for record in written:
            (found,) = record["found"]
            assert record["action"] == policy
            assert (found["task"], found["what"], found["cause"]) == ("bad", "loss", "inputs")
            assert (found["rows"], found["split_rows"]) == expected[record["step"]]
        assert [e.step for e in emitted if isinstance(e, events.NonFiniteFound)] == sorted(expected)
        last = records(done.folder, "step")[-1]
        skipped = len(expected) if policy == "skip-step" else 0
        assert (last["non_finite_steps"], last["non_finite"]) == (len(expected), {"side": 0, "bad": len(expected)})
        assert last["skipped"] == done.skipped == skipped
        assert done.non_finite == {"bad": len(expected)}
        for record in records(done.folder, "step"):
            if record["step"] in expected:
                assert list(record["losses"]) == ([] if policy == "skip-step" else ["side"])
        for path in (done.folder / "checkpoints").glob("*/*.safetensors"):
            tensors = load_file(path)
            assert all(t.isfinite().all() for name, t in tensors.items() if "strategy" not in name), path

    def test_plugins_hear_of_it(self, train, bad, expected):
        class Listening:
            """A plugin that is told of what is not finite."""

            def __init__(self):
                self.told = []

            @mtlkit.hookimpl
            def mtlkit_non_finite_found(self, event):
                self.told.append((event.step, event.action, [each.task for each in event.found]))

        listening = Listening()
        train(
            tasks_given={"bad": bad, "listening": listening},
            tasks=["side", "bad"],
            hooks=["listening"],
            training={"non_finite": "skip-task"},
        )
        assert listening.told == [(step, "skip-task", ["bad"]) for step in sorted(expected)]

    @pytest.mark.parametrize("policy", ["skip-task", "skip-step"])
    @pytest.mark.parametrize("strategy", ["gradnorm", "db-mtl", "graddrop"])
    def test_a_run_that_was_killed_ends_as_one_that_was_not(self, run, expected, policy, strategy):
        training = {"non_finite": policy, "accumulate": 1}
        whole = run("whole", strategy=strategy, training=training, checkpoints={"keep": 1})
        at = sorted(expected)[1]

        def kill(event):
            if isinstance(event, events.StepFinished) and event.step == at:
                raise Stopped("here", 0)

        with pytest.raises(Stopped):
            run("killed", strategy=strategy, training=training, checkpoints={"keep": 1}, listeners=[kill])
        resumed = run("killed", strategy=strategy, training=training, checkpoints={"keep": 1}, resume=True)
        assert contents(resumed.folder) == contents(whole.folder)

    def test_how_many_were_in_a_row_is_part_of_a_checkpoint(self, train, toy):
        class Never(toy.Distance):
            def loss(self, output, target):
                return super().loss(output, target) * (math.inf if torch.is_grad_enabled() and len(target) == 16 else 1)

        settings = {
            "tasks_given": {"never": Never},
            "tasks": ["side", {"name": "never", "options": {"seed": 1}}],
            "training": {"non_finite": "skip-task", "non_finite_limit": 5, "steps_per_epoch": 1},
        }

        def kill(event):
            if isinstance(event, events.CheckpointWritten) and event.step == 3:
                raise Stopped("here", 0)

        with pytest.raises(Stopped):
            train(listeners=[kill], **settings)
        with pytest.raises(
            NonFiniteError, match=r"in step 6 .*There were 6 such steps in a row.*limit is 5\."
        ) as caught:
            train(resume=True, **settings)
        assert "after step 5, where the run is saved" in str(caught.value)


class TestWeights:
    @pytest.mark.parametrize("policy", ["stop", "skip-task", "skip-step"])
    def test_that_a_step_moved_beyond_all_numbers_are_not_saved(self, train, toy, tmp_path, policy):
        """There is nothing to be skipped any more: the run ends, and what was saved before is as it was."""

        class Steep(toy.Distance):
            def loss(self, output, target):
                return 1e4 * super().loss(output, target)

        with pytest.raises(
            NonFiniteError, match=r"Non-finite weights: .*, in step \d+\..*had not been saved"
        ) as caught:
            train(
                tasks_given={"steep": Steep},
                tasks=["side", "steep"],
                optimizer={"name": "sgd", "lr": 3e38},
                training={"non_finite": policy},
            )
        assert caught.value.what == "weights"
        assert "weight" in caught.value.to_dict()["found"][0]["what"]
        assert not (tmp_path / "toy" / "checkpoints").exists()
        assert not (tmp_path / "toy" / "best").exists()

    def test_are_found_before_they_are_saved_though_no_loss_shows_them(self, train, toy, tmp_path):
        """A bias of -inf before a ReLU: the loss is finite for good."""

        def spoil(event):
            if isinstance(event, events.StepFinished) and event.step == 6:
                made["head"].inner[0].bias.data.fill_(-math.inf)

        made = {}

        class Dead(toy.Side):
            def head(self, features):
                made["head"] = torch.nn.Module()

                class Head(torch.nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.inner = torch.nn.Sequential(torch.nn.Linear(features.size, 2), torch.nn.ReLU())
                        made["head"] = self

                    def forward(self, z):
                        return self.inner(z)

                return Head()

        with pytest.raises(
            NonFiniteError, match=r"Non-finite weights: heads\.task_dead\.inner\.0\.bias.*after step 4\."
        ):
            train(tasks_given={"dead": Dead}, tasks=["dead", "distance"], listeners=[spoil])
        assert [path.name for path in (tmp_path / "toy" / "checkpoints").iterdir()] == ["step-000004"]


class TestWhose:
    def test_task_of_a_bank(self, train, toy, records):
        """Tasks that are computed as one are told apart, and the others learn on."""

        @dataclass(frozen=True)
        class Many(toy.Points):
            def splits(self):
                splits = super().splits()
                for split in splits.values():
                    for task in range(5):
                        split.targets[f"column{task}"] = split.inputs[:, task].clone()
                splits["train"].targets["column2"][BAD] = math.inf
                return splits

        class Column(mtlkit.tasks.Regression):
            def __init__(self, *, column: int = 0) -> None:
                self.target = f"column{column}"

            def source(self):
                return Many(64)

        tasks = [{"name": "column", "label": f"c{n}", "options": {"column": n}} for n in range(5)]
        done = train(tasks_given={"column": Column}, tasks=tasks, training={"non_finite": "skip-task"})
        written = records(done.folder, "non_finite")
        assert written
        assert {(found["task"], found["cause"]) for record in written for found in record["found"]} == {
            ("c2", "target")
        }
        steps = {record["step"]: record for record in records(done.folder, "step")}
        assert sorted(steps[written[0]["step"]]["losses"]) == ["c0", "c1", "c3", "c4"]

    def test_penalty_of_an_architecture(self, train):
        from mtlkit.architectures import HardSharing

        class Pays(HardSharing):
            def penalty(self):
                return sum((0 * p).sum() for p in self.encoder.parameters()).abs().sqrt()

        with pytest.raises(NonFiniteError, match="Non-finite penalty, in step 1"):
            train(tasks_given={"pays": Pays}, architecture="pays")

    def test_task_that_shares_the_rows(self, train, toy, records, bad):
        """Both have a loss on the rows that are not finite."""

        class Sided(toy.Side):
            def __init__(self) -> None:
                self.points = bad().points

        done = train(
            tasks_given={"bad": bad, "sided": Sided},
            tasks=["sided", "bad"],
            training={"non_finite": "skip-task"},
        )
        for record in records(done.folder, "non_finite"):
            assert {found["task"] for found in record["found"]} == {"sided", "bad"}
            assert record["action"] == "skip-step"  # no task is left
        assert done.skipped == len(records(done.folder, "non_finite")) > 0

    def test_loss_after_the_step(self, train, toy, records):
        """A strategy that watches the step hears nothing of it."""

        class Blows(toy.Distance):
            """Its loss is infinite where it is only looked at, once."""

            looked = 0

            def loss(self, output, target):
                loss = super().loss(output, target)
                if len(target) == 16 and not torch.is_grad_enabled() and output.requires_grad is False:
                    type(self).looked += 1
                    return loss * (math.inf if type(self).looked == 2 else 1)
                return loss

        done = train(
            tasks_given={"blows": Blows},
            tasks=["side", "blows"],
            strategy="famo",
            training={"non_finite": "skip-step", "steps": 4},
            evaluation={"batch_size": 512},
        )
        (record,) = records(done.folder, "non_finite")
        assert (record["action"], record["found"][0]["what"]) == ("go-on", "loss after the step")
        assert record["found"][0]["task"] == "blows"


def test_float16_overflow_is_no_error(train, toy, records):
    """It is skipped and counted as ever; what is not finite in float16 and not for want of range is."""

    class Steep(toy.Distance):
        def loss(self, output, target):
            return 200 * super().loss(output.float(), target)

    done = train(
        tasks_given={"steep": Steep}, tasks=["steep"], training={"precision": "float16", "steps_per_epoch": 12}
    )
    assert done.skipped > 0
    assert done.non_finite == {}
    assert records(done.folder, "non_finite") == []


def test_rows_of_a_stream_are_told_of_by_their_place_in_the_batch(train, toy, records):
    def rows_from(first):
        for number in range(first, 64):
            value = math.inf if number in BAD else float(number % 5)
            yield torch.tensor([value, 1.0]), {"distance": torch.tensor([value * 0.5 if value < 9 else 1.0])}

    @dataclass(frozen=True)
    class Streamed(mtlkit.Source):
        def splits(self):
            return {"train": mtlkit.data.StreamSplit(rows_from, length=64)}

    class Flowing(toy.Distance):
        def __init__(self) -> None: ...

        def source(self):
            return Streamed()

        def head(self, features):
            return heads.Linear(features, 1)

        def loss(self, output, target):
            return F.mse_loss(output, target)

    with pytest.raises(NonFiniteError) as caught:
        train(tasks_given={"flowing": Flowing}, tasks=["flowing"], loading={"workers": 0})
    (found,) = caught.value.to_dict()["found"]
    assert found["rows"] == [2, 10]  # rows are held back for validation and test before it
    assert found["split_rows"] is None
