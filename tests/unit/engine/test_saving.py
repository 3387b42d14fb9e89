"""Saving while training goes on: it waits for a copy alone, the files are the same, and no error is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from mtlkit.engine import events, storage
from mtlkit.engine.background import Abandoned, Background
from mtlkit.engine.checkpoint import writing
from mtlkit.engine.run import RunFolder
from mtlkit.errors import PluginError, Stopped, StorageError

PATIENCE = 180  # seconds until a test that waits for what never comes fails

RUN = {
    "encoder": {"name": "mlp", "layers": [8], "dropout": 0.3},
    "strategy": "gradnorm",
    "checkpoints": {"keep": 99},
}


@pytest.fixture(name="hold")
def fixture_hold(monkeypatch):
    """Return a function that lets every file of a step's checkpoint wait for an event, which it returns.

    Its attribute `reached` is the event that the first of them is waiting.
    """

    def hold(step):
        event = threading.Event()
        event.reached = threading.Event()

        def write(path, content):
            if f"step-{step:06d}" in str(path):
                event.reached.set()
                assert event.wait(PATIENCE), "training waits for the writer"
            return storage.write_file(path, content)

        monkeypatch.setattr(writing, "write_file", write)
        return event

    return hold


@pytest.fixture(name="refuse")
def fixture_refuse(monkeypatch):
    """Return a function that lets no file of a step's checkpoint be written."""

    def refuse(step, error=None):
        def write(path, content):
            if f"step-{step:06d}" in str(path):
                raise error or OSError(errno.EIO, "Input/output error", str(path))
            return storage.write_file(path, content)

        monkeypatch.setattr(writing, "write_file", write)

    return refuse


def files(folder):
    """Return what a run left, but for times and what its configuration says of saving."""
    others = {"config.yaml", "environment.json", "timings.jsonl", "lock.json"}
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in others]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class TestTraining:
    def test_does_not_wait_for_the_disk(self, train, hold):
        written = hold(4)
        told = []

        def listen(event):
            told.append((type(event).__name__, getattr(event, "step", None)))
            if told[-1] == ("StepFinished", 7):
                written.set()

        run = train(listeners=[listen])
        assert told.index(("StepFinished", 7)) < told.index(("CheckpointWritten", 4))
        assert [step for name, step in told if name == "CheckpointWritten"] == [4, 8, 12]
        assert told.index(("CheckpointWritten", 12)) < told.index(("RunFinished", None))
        assert run.steps == 12

    def test_waits_for_it_where_it_is_told_to(self, train, refuse):
        refuse(4)
        steps = []
        with pytest.raises(StorageError):
            train(checkpoints={"background": False}, listeners=[lambda event: steps.append(getattr(event, "step", 0))])
        assert max(steps) == 4

    def test_leaves_the_same_files_either_way(self, train, hold):
        written = hold(4)  # while all that it holds is changed in place, three times over

        def listen(event):
            if isinstance(event, events.StepFinished) and event.step == 7:
                written.set()

        behind = train(run={"name": "behind"}, listeners=[listen], **RUN)
        before = train(run={"name": "before"}, **RUN | {"checkpoints": {"keep": 99, "background": False}})
        assert files(behind.folder) == files(before.folder)
        assert len(list(behind.folder.rglob("manifest.json"))) == 4

    def test_has_one_checkpoint_written_at_a_time(self, train, monkeypatch):
        at_once, most = 0, 0

        def write(folder, snapshot, *, go_on, really=writing.write):
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            time.sleep(0.02)  # longer than a step
            really(folder, snapshot, go_on=go_on)
            at_once -= 1

        monkeypatch.setattr("mtlkit.engine.checkpoint.write", write)
        train(training={"steps": 8, "steps_per_epoch": 1})
        assert most == 1


class TestFailure:
    def test_is_raised_before_the_next_save(self, train, refuse, tmp_path):
        refuse(8)
        told = []
        with pytest.raises(StorageError, match=r"save the run at step 8: Input.*step-000008.*") as caught:
            train(listeners=[told.append])
        assert caught.value.exit_code == 7
        assert [event.step for event in told if isinstance(event, events.CheckpointWritten)] == [4]
        assert max(event.step for event in told if isinstance(event, events.StepFinished)) in range(8, 13)
        folder, damaged = RunFolder.open(tmp_path / "toy").saves.latest()
        assert (folder.name, damaged) == ("step-000004", [])

    @pytest.mark.parametrize("step", [8, 12])
    @pytest.mark.parametrize("background", [True, False])
    def test_is_never_lost(self, train, refuse, tmp_path, step, background):
        refuse(step)
        with pytest.raises(StorageError):
            train(checkpoints={"background": background})
        assert not (tmp_path / "toy" / "done.json").exists()

    def test_that_is_no_matter_of_storage_is_what_it_is(self, train, refuse):
        refuse(4, ValueError("a bug"))
        with pytest.raises(ValueError, match="a bug"):
            train()

    def test_of_both_is_that_of_training_and_a_warning(self, train, refuse, toy):
        class Failing(toy.Side):
            def loss(self, output, target):
                if torch.is_grad_enabled() and saved.is_set():
                    raise RuntimeError("out of ideas")
                return super().loss(output, target)

        saved = threading.Event()
        refuse(4)

        def listen(event):
            if isinstance(event, events.StepFinished) and event.step == 4:
                saved.set()

        with (
            pytest.warns(UserWarning, match="And while that happened: Cannot save the run at step 4"),
            pytest.raises(PluginError, match="out of ideas"),
        ):
            train(tasks_given={"side": Failing}, listeners=[listen])

    def test_of_training_waits_for_the_checkpoint_and_tells_of_it(self, train, hold, tmp_path):
        written = hold(4)
        told = []

        def listen(event):
            told.append(event)
            if isinstance(event, events.StepFinished) and event.step == 6:
                threading.Timer(0.05, written.set).start()
                raise RuntimeError("pulled the plug")

        with pytest.raises(RuntimeError, match="pulled the plug"):
            train(listeners=[listen])
        assert isinstance(told[-1], events.CheckpointWritten)
        assert RunFolder.open(tmp_path / "toy").saves.latest()[0].name == "step-000004"


class TestStopping:
    def test_waits_for_the_checkpoint_that_is_being_written(self, train, hold, tmp_path):
        written = hold(4)

        def listen(event):
            if isinstance(event, events.StepFinished) and event.step == 6:
                threading.Timer(0.05, written.set).start()
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(Stopped):
            train(listeners=[listen])
        kept = sorted(path.name for path in (tmp_path / "toy" / "checkpoints").iterdir())
        assert kept == ["step-000004", "step-000006"]

    def test_at_once_waits_for_nothing_and_leaves_the_older_checkpoint(self, train, hold, tmp_path):
        written = hold(8)

        def interrupt(event):
            if isinstance(event, events.StepFinished) and event.step == 10:
                assert written.reached.wait(PATIENCE)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(listeners=[interrupt])
        (thread,) = [each for each in threading.enumerate() if each.name == "mtlkit-background"]
        written.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert [path.name for path in (tmp_path / "toy" / "checkpoints").iterdir()] == ["step-000004"]

    @pytest.mark.slow
    def test_twice_ends_at_once_though_a_checkpoint_is_being_written(self, lay, tmp_path):
        site = lay(
            "stuck-plugin", entry_points={"tasks": {"stuck": "stuck_tasks:stuck"}}, modules={"stuck_tasks": STUCK}
        )
        config = tmp_path / "run.yaml"
        settings = {
            "run": {"name": "stuck", "dir": str(tmp_path)},
            "tasks": ["stuck"],
            "encoder": {"name": "mlp", "layers": [4]},
            "training": {"steps": 400, "steps_per_epoch": 2, "batch_size": 16, "threads": 1, "device": "cpu"},
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-c", START, "train", str(config)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *sys.path])},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not (tmp_path / "stuck-in-it").exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)  # for what is being written
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 130
        assert "Traceback" not in err
        run = RunFolder.open(tmp_path / "stuck")
        assert (run.saves.latest()[0].name, run.saves.latest()[1]) == ("step-000002", [])


# A shell that is not interactive has what it starts in the background ignore SIGINT.
START = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from mtlkit.cli import main; main()"

STUCK = """
import threading
from pathlib import Path

import torch
from torch.nn import functional as F
from torchmetrics import MeanSquaredError

import mtlkit
from mtlkit.engine import storage
from mtlkit.engine.checkpoint import writing


def write(path, content):
    if "step-000004" in str(path):
        Path("stuck-in-it").touch()
        threading.Event().wait()
    return storage.write_file(path, content)


writing.write_file = write


class Rows(mtlkit.Source):
    def splits(self):
        inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        return {"train": mtlkit.Split(inputs, {"sum": inputs.sum(1, keepdim=True)})}


class Stuck(mtlkit.Task):
    loss_kind = "regression"
    target = "sum"

    def source(self):
        return Rows()

    def head(self, features):
        return mtlkit.heads.Linear(features, 1)

    def loss(self, output, target):
        return F.mse_loss(output, target)

    def metrics(self):
        return {"mse": MeanSquaredError()}


stuck = mtlkit.plugin(Stuck)
"""


class TestBackground:
    def test_raises_what_was_raised_once_and_goes_on(self):
        background = Background()
        background.start(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            background.wait()
        background.start(lambda: 3)
        background.wait()
        assert background.done() == [3]
        assert background.done() == []

    def test_starts_nothing_before_the_last_is_done(self):
        background, first = Background(), threading.Event()
        seen = []
        background.start(lambda: (first.wait(PATIENCE), seen.append("first")))
        threading.Timer(0.05, first.set).start()
        background.start(lambda: seen.append("second"))
        background.wait()
        assert seen == ["first", "second"]

    def test_does_it_at_once_where_there_is_no_thread_to_spare(self, monkeypatch):
        def refuse(_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        background = Background()
        background.start(threading.get_ident)
        assert background.done() == [threading.get_ident()]

    def test_that_is_abandoned_breaks_off_where_it_asks(self):
        background, begun, ended = Background(), threading.Event(), threading.Event()

        def job():
            begun.set()
            try:
                while True:
                    background.go_on()
            except Abandoned:
                ended.set()
                raise

        background.start(job)
        assert begun.wait(PATIENCE)
        background.abandon()
        assert ended.wait(PATIENCE)
        background.wait()
        assert background.done() == []

    def test_breaks_off_a_checkpoint_and_leaves_the_older_one(self, tmp_path):
        from mtlkit.engine import checkpoint

        def abandoned():
            raise Abandoned

        model = torch.nn.Linear(2, 2)
        checkpoint.save(tmp_path / "best", step=1, model=model)
        with pytest.raises(Abandoned):
            checkpoint.write(tmp_path / "best", checkpoint.Snapshot.take(2, model), go_on=abandoned)
        assert checkpoint.verify(tmp_path / "best") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
