"""What the hook leaves for TensorBoard, read back by TensorBoard's own reader and held against metrics.jsonl."""

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import RecordWriter

import mtlkit
from mtlkit.engine import events
from mtlkit.errors import MtlkitError, Stopped, StorageError
from mtlkit_tensorboard.hooks import TensorBoard

SECTIONS = {"run", "training"}


@pytest.fixture(name="train")
def fixture_train(tmp_path):
    """Return a function that trains two tasks on digits for six steps in three epochs, with what is given instead."""

    def train(*, resume=False, listeners=(), **given):
        settings = {
            "run": {"name": "digits", "dir": str(tmp_path)},
            "tasks": ["digit", "denoise"],
            "encoder": {"name": "mlp", "layers": [8]},
            "strategy": {"name": "gradnorm"},
            "schedule": {"name": "cosine"},
            "training": {
                "steps": 6,
                "steps_per_epoch": 2,
                "batch_size": 16,
                "log_every": 1,
                "threads": 1,
                "device": "cpu",
            },
            "hooks": ["tensorboard"],
        }
        for key, value in given.items():
            settings[key] = settings[key] | value if key in SECTIONS else value
        return mtlkit.train(settings, resume=resume, listeners=listeners)

    return train


def read(folder):
    """Return what TensorBoard reads in a folder."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    reader.Reload()
    return reader


def curves(folder):
    """Return the curves that TensorBoard shows of a folder: by tag, each step with its value in float32."""
    reader = read(folder)
    return {
        tag: [(event.step, np.float32(event.value)) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


def recorded(run):
    """Return what metrics.jsonl says, as :func:`curves` would have it."""
    found = {}

    def add(tag, step, value):
        found.setdefault(tag, []).append((step, np.float32(value)))

    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        step = record["step"]
        if record["event"] == "step":
            add("learning_rate", step, record["learning_rate"])
            for field in ("losses", "weights", "weighted_losses", "gradient_norms", "rows"):
                for label, value in record[field].items():
                    add(f"{field}/{label}", step, value)
        else:
            for label, task in record["tasks"].items():
                add(f"{record['split']}_losses/{label}", step, task["loss"])
                for name, value in task["metrics"].items():
                    add(f"{record['split']}_metrics/{label}/{name}", step, value)
    return found


def texts(folder):
    """Return the texts that TensorBoard shows of a folder, by tag."""
    reader = read(folder)
    return {
        tag: [(event.step, event.tensor_proto.string_val[0].decode()) for event in reader.Tensors(tag)]
        for tag in reader.Tags()["tensors"]
    }


def failures(run):
    path = run / "hook_failures.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def pull_the_plug(step):
    """Return a listener that ends a run without ado."""

    def listen(event):
        if isinstance(event, events.StepFinished) and event.step == step:
            raise RuntimeError("pulled the plug")

    return listen


def signal_at(step):
    """Return a listener that has its own process sent SIGINT when a step was taken."""

    def listen(event):
        if isinstance(event, events.StepFinished) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return listen


def started(folder, step=0):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("tasks: [wine]\n", encoding="utf-8")
    return events.RunStarted(folder, ["wine"], step, 10, 5)


def step_recorded(step, loss):
    return events.StepRecorded(
        step, 0.5, {"wine": loss}, {"wine": 1.0}, {"wine": loss}, {}, {"wine": 8}, {"wine": 8 * step}
    )


class TestARun:
    def test_is_shown_as_it_was_recorded(self, train):
        run = train()
        shown = curves(run.folder / "tensorboard")
        assert shown == recorded(run.folder)
        assert {tag.partition("/")[0] for tag in shown} == {
            "learning_rate",
            "losses",
            "weights",
            "weighted_losses",
            "gradient_norms",
            "rows",
            "validation_losses",
            "validation_metrics",
            "test_losses",
            "test_metrics",
        }
        assert [step for step, _ in shown["losses/denoise"]] == [1, 2, 3, 4, 5, 6]
        assert [step for step, _ in shown["validation_metrics/digit/accuracy"]] == [2, 4, 6]
        assert shown["test_metrics/denoise/mse"] == [
            (run.best_step, np.float32(run.results["denoise"].metrics["mse"])),
        ]
        assert not failures(run.folder)

    def test_shows_its_configuration(self, train):
        run = train(training={"steps": 1})
        ((step, text),) = texts(run.folder / "tensorboard")["config/text_summary"]
        assert step == 0
        lines = (run.folder / "config.yaml").read_text(encoding="utf-8").splitlines()
        assert text.splitlines() == ["    " + line for line in lines]

    def test_goes_to_the_folder_asked_for(self, train):
        run = train(training={"steps": 1}, hooks=[{"name": "tensorboard", "folder": "for/tb", "flush_seconds": 1}])
        assert curves(run.folder / "for" / "tb") == recorded(run.folder)
        assert not (run.folder / "tensorboard").exists()

    def test_in_its_own_folder_shares_none_with_another(self, train):
        runs = [train(run={"name": name, "seed": seed}) for seed, name in enumerate(("one", "two"))]
        one, two = (curves(run.folder / "tensorboard") for run in runs)
        assert one.keys() == two.keys()
        assert all(one[tag] != two[tag] for tag in one if tag.startswith(("losses", "test_losses")))
        assert [one, two] == [recorded(run.folder) for run in runs]

    @pytest.mark.parametrize("folder", ["/elsewhere", "..", "../elsewhere"])
    def test_refuses_a_folder_that_runs_could_share(self, train, tmp_path, folder):
        with pytest.raises(MtlkitError, match="must be in the run's own folder") as caught:
            train(hooks=[{"name": "tensorboard", "folder": folder}])
        assert folder in str(caught.value)
        assert not (tmp_path / "digits").exists()


class TestResuming:
    def test_a_stopped_run_shows_one_curve(self, train, tmp_path):
        with pytest.raises(Stopped):
            train(listeners=[signal_at(3)])
        before = curves(tmp_path / "digits" / "tensorboard")  # on the disk by then, though the writer is still open
        assert before == recorded(tmp_path / "digits")
        run = train(resume=True)
        assert curves(run.folder / "tensorboard") == recorded(run.folder)
        assert len(texts(run.folder / "tensorboard")["config/text_summary"]) == 1

    @pytest.mark.parametrize(("step", "saved"), [(2, 0), (6, 4)])
    def test_drops_what_is_past_the_step_it_was_saved_at(self, train, tmp_path, step, saved):
        with pytest.raises(RuntimeError, match="pulled the plug"):
            train(listeners=[pull_the_plug(step)])
        gc.collect()  # the run is gone, and with it its writer
        before = curves(tmp_path / "digits" / "tensorboard")
        assert [step for step, _ in before["losses/digit"]] == list(range(1, step))
        assert step - 1 > saved
        run = train(resume=True)
        assert curves(run.folder / "tensorboard") == recorded(run.folder)

    def test_files_of_one_second_are_read_in_the_order_they_were_written(self, tmp_path):
        for attempt in range(3):
            hooks = TensorBoard()
            hooks.mtlkit_run_started(started(tmp_path / "run", step=2 * attempt))
            for step in range(2 * attempt + 1, 2 * attempt + 4):
                hooks.mtlkit_step_recorded(step_recorded(step, 10.0 * attempt))
            hooks.mtlkit_run_finished(events.RunFinished(tmp_path / "run", 1, {}))
        names = sorted(path.name for path in (tmp_path / "run" / "tensorboard").iterdir())
        assert len({name.split(".")[3] for name in names}) == 3
        assert curves(tmp_path / "run" / "tensorboard")["losses/wine"] == [
            (step, value) for step, value in enumerate((0, 0, 10, 10, 20, 20, 20), 1)
        ]

    def test_a_hook_named_later_shows_the_rest(self, train, tmp_path):
        with pytest.raises(Stopped):
            train(listeners=[signal_at(3)], hooks=[])
        assert not (tmp_path / "digits" / "tensorboard").exists()
        run = train(resume=True)
        shown = curves(run.folder / "tensorboard")
        assert [step for step, _ in shown["losses/digit"]] == [4, 5, 6]
        assert texts(run.folder / "tensorboard")["config/text_summary"]


class TestValues:
    def test_that_are_not_finite(self, tmp_path):
        hooks = TensorBoard()
        hooks.mtlkit_run_started(started(tmp_path))
        results = {"wine": events.TaskResult(math.inf, {"f1": math.nan, "loss": 1e300}, 3)}
        hooks.mtlkit_evaluation_finished(events.EvaluationFinished(5, 1.0, "validation", results, is_best=True))
        shown = curves(tmp_path / "tensorboard")
        assert shown["validation_losses/wine"] == [(5, math.inf)]
        ((step, value),) = shown["validation_metrics/wine/f1"]
        assert step == 5
        assert math.isnan(value)
        assert shown["validation_metrics/wine/loss"] == [(5, math.inf)]  # past what float32 holds

    def test_of_two_runs_told_by_turns(self, tmp_path):
        runs = [tmp_path / "one", tmp_path / "two"]
        hooks = [TensorBoard(), TensorBoard()]
        for each, run in zip(hooks, runs, strict=True):
            each.mtlkit_run_started(started(run))
        for step in (1, 2, 3):
            for number, each in enumerate(hooks):
                each.mtlkit_step_recorded(step_recorded(step, number))
        for each, run in zip(hooks, runs, strict=True):
            each.mtlkit_run_finished(events.RunFinished(run, 1, {}))
        for number, run in enumerate(runs):
            assert curves(run / "tensorboard")["losses/wine"] == [(1, number), (2, number), (3, number)]


class TestTheDisk:
    @pytest.fixture(name="slowly")
    def fixture_slowly(self, monkeypatch):
        """A disk that takes a while."""
        write = RecordWriter.write

        def write_slowly(writer, record):
            time.sleep(0.02)
            write(writer, record)

        monkeypatch.setattr(RecordWriter, "write", write_slowly)

    @pytest.mark.parametrize("hook", ["mtlkit_evaluation_finished", "mtlkit_checkpoint_written", "mtlkit_run_finished"])
    def test_has_everything_at_certain_times(self, tmp_path, slowly, hook):
        hooks = TensorBoard(flush_seconds=1e6)
        hooks.mtlkit_run_started(started(tmp_path))
        for step in (1, 2, 3):
            hooks.mtlkit_step_recorded(step_recorded(step, 1.5))
        event = {
            "mtlkit_evaluation_finished": events.EvaluationFinished(3, 0.6, "validation", {}, is_best=True),
            "mtlkit_checkpoint_written": events.CheckpointWritten(3, tmp_path),
            "mtlkit_run_finished": events.RunFinished(tmp_path, 3, {}),
        }[hook]
        getattr(hooks, hook)(event)
        assert curves(tmp_path / "tensorboard")["losses/wine"] == [(1, 1.5), (2, 1.5), (3, 1.5)]

    @pytest.mark.parametrize("finished", [True, False])
    def test_is_written_by_no_thread_once_the_run_is_over(self, tmp_path, finished):
        before = set(threading.enumerate())
        hooks = TensorBoard()
        hooks.mtlkit_run_started(started(tmp_path))
        assert set(threading.enumerate()) > before
        if finished:
            hooks.mtlkit_run_finished(events.RunFinished(tmp_path, 1, {}))
        else:
            del hooks
            gc.collect()
        assert set(threading.enumerate()) <= before


class TestFailures:
    def test_of_a_folder_that_cannot_be_made(self, train):
        with pytest.warns(UserWarning, match="mtlkit_run_started of .*mtlkit-tensorboard .*Cannot write TensorBoard's"):
            run = train(hooks=[{"name": "tensorboard", "folder": "config.yaml/tb"}])
        assert run.steps == 6
        (failure,) = failures(run.folder)
        assert failure["hook"] == "mtlkit_run_started"
        assert f"to {run.folder / 'config.yaml' / 'tb'}: Not a directory" in failure["error"]

    def test_of_an_import(self, train, monkeypatch):
        for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        with pytest.warns(UserWarning, match="pip install tensorboard"):
            run = train()
        (failure,) = failures(run.folder)
        assert failure["plugin"] == "mtlkit-tensorboard:tensorboard"
        assert failure["error"].startswith("PluginError: TensorBoard's writer cannot be imported: ")
        assert not (run.folder / "tensorboard").exists()

    # tensorboard writes in a thread, which raises too.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_of_a_folder_that_goes_away_are_told_once(self, train, tmp_path):
        def remove(event):
            if isinstance(event, events.StepFinished) and event.step == 3:
                shutil.rmtree(tmp_path / "digits" / "tensorboard")

        with pytest.warns(UserWarning, match=r"Cannot write .*: No such file or directory") as caught:
            assert train(listeners=[remove]).steps == 6
        assert len([each for each in caught if each.category is UserWarning]) == 1
        assert len(failures(tmp_path / "digits")) == 1

    def test_of_a_start_leave_nothing_to_be_told(self, tmp_path):
        hooks = TensorBoard(folder="config.yaml")
        with pytest.raises(StorageError, match=r"Cannot write .* to .*config\.yaml"):
            hooks.mtlkit_run_started(started(tmp_path))
        hooks.mtlkit_step_recorded(step_recorded(1, 1.0))
        hooks.mtlkit_checkpoint_written(events.CheckpointWritten(1, tmp_path))
        hooks.mtlkit_run_finished(events.RunFinished(tmp_path, 1, {}))
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


PROCESS = """
import os, sys, time
from pathlib import Path

import mtlkit_tensorboard

loaded = {"torch", "tensorboard", "numpy", "google.protobuf"} & sys.modules.keys()
assert not loaded, loaded

from mtlkit.engine import events
from mtlkit_tensorboard.hooks import TensorBoard
from torch.utils.tensorboard import RecordWriter

write = RecordWriter.write
RecordWriter.write = lambda writer, record: (time.sleep(0.02), write(writer, record))
folder = Path(sys.argv[1])
hooks = TensorBoard(flush_seconds=1e6)
hooks.mtlkit_run_started(events.RunStarted(folder, ["wine"], 0, 10, 5))
for step in range(1, 11):
    hooks.mtlkit_step_recorded(events.StepRecorded(step, 0.1, {"wine": 2.0}, {}, {}, {}, {}, {}))
if os.fork() == 0:
    sys.exit()  # which runs what is to be run at exit: it must not wait for a thread that is its parent's alone
assert os.wait()[1] == 0
sys.exit("stopped")
"""


def test_a_process_that_ends_leaves_everything_written(tmp_path):
    (tmp_path / "config.yaml").write_text("tasks: [wine]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, tmp_path], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stderr == "stopped\n"
    assert curves(tmp_path / "tensorboard")["losses/wine"] == [(step, 2) for step in range(1, 11)]
