"""Stopping and going on: whatever ends a run, going on with it gives the bytes of a run that was never stopped."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import mtlkit
from mtlkit.cli import main
from mtlkit.engine import events
from mtlkit.errors import CheckpointError, ConfigError, PluginError, Stopped

PATIENCE = 60  # seconds that a subprocess may take

# Everything that a checkpoint must hold: two sources with rows without labels, dropout, momenta, a schedule.
RUN = {
    "tasks": [{"name": "side", "options": {"gaps": 3}}, {"name": "distance", "options": {"rows": 50, "seed": 2}}],
    "encoder": {"name": "mlp", "layers": [8], "dropout": 0.3},
    "schedule": {"name": "cosine", "warmup": 0.2},
    "training": {"steps": 14, "log_every": 3, "accumulate": 2},
}


def signal_at(*steps, number=signal.SIGINT):
    """Return a listener that has its own process sent a signal when any of the steps was taken."""

    def listen(event):
        if isinstance(event, events.StepFinished) and event.step in steps:
            os.kill(os.getpid(), number)

    return listen


def outcome(folder):
    """Return what must not depend on whether a run was stopped."""
    (*_, newest) = sorted((folder / "checkpoints").iterdir())
    paths = [
        folder / "metrics.jsonl",
        folder / "done.json",
        folder / "best" / "weights.safetensors",
        newest / "weights.safetensors",
        newest / "state.safetensors",
        newest / "state.json",
        newest / "manifest.json",
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def damage(folder):
    """Flip a bit of a checkpoint."""
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture(name="stop")
def fixture_stop(train):
    """Return a function that starts a run and stops it after a step."""

    def stop(step, *, number=signal.SIGINT, **settings):
        with pytest.raises(Stopped) as caught:
            train(listeners=[signal_at(step, number=number)], **settings)
        return caught.value

    return stop


class TestBySignal:
    @pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_saves_the_run_and_says_where(self, stop, tmp_path, number, exit_code):
        before = signal.getsignal(number)
        stopped = stop(5, number=number)
        folder = tmp_path / "toy"
        assert str(stopped) == f"Stopped after step 5 of 12; the run is saved in {folder}."
        assert stopped.exit_code == exit_code
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
        assert not (folder / "done.json").exists()
        assert signal.getsignal(number) == before

    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
    @pytest.mark.parametrize("optimizer", ["adam", {"name": "sgd", "lr": 0.05, "momentum": 0.9}])
    def test_going_on_ends_as_if_never_stopped(self, train, stop, strategy, optimizer):
        settings = {**RUN, "strategy": strategy, "optimizer": optimizer}
        whole = train(run={"name": "whole"}, **settings)
        stop(5, run={"name": "stopped"}, **settings)
        resumed = train(run={"name": "stopped"}, resume=True, **settings)
        assert outcome(resumed.folder) == outcome(whole.folder)
        assert resumed.results == whole.results

    @pytest.mark.parametrize("step", [1, 4, 8, 13])
    def test_at_any_step(self, train, stop, step):
        whole = train(run={"name": "whole"}, **RUN)
        stop(step, run={"name": "stopped"}, **RUN)
        assert outcome(train(run={"name": "stopped"}, resume=True, **RUN).folder) == outcome(whole.folder)

    @pytest.mark.parametrize(
        "draw",
        [
            random.random,
            lambda: random.gauss(0, 1),  # two at a time, so that one is left over
            np.random.rand,
            np.random.standard_normal,
            lambda: torch.rand(()),
        ],
        ids=["python", "python's gauss", "numpy", "numpy's normal", "torch"],
    )
    def test_with_a_task_that_draws_random_numbers(self, train, stop, toy, draw):
        class Drawing(toy.Side):
            def loss(self, output, target):
                return super().loss(output, target) * (1 + 0.1 * draw())

        whole = train(run={"name": "whole"}, tasks_given={"side": Drawing}, **RUN)
        stop(5, run={"name": "stopped"}, tasks_given={"side": Drawing}, **RUN)
        resumed = train(run={"name": "stopped"}, tasks_given={"side": Drawing}, resume=True, **RUN)
        assert outcome(resumed.folder) == outcome(whole.folder)

    def test_again_and_again(self, train, stop):
        whole = train(run={"name": "whole"}, **RUN)
        for step in (2, 3, 9):
            stop(step, run={"name": "stopped"}, resume=True, **RUN)
        assert outcome(train(run={"name": "stopped"}, resume=True, **RUN).folder) == outcome(whole.folder)

    @pytest.mark.parametrize("step", [8, 14])
    def test_does_not_wait_for_an_evaluation(self, train, step):
        whole = train(run={"name": "whole"}, **RUN)
        told = []
        with pytest.raises(Stopped, match=f"after step {step} of 14"):
            train(run={"name": "stopped"}, listeners=[told.append, signal_at(step)], **RUN)
        assert step not in [each.step for each in told if isinstance(each, events.EvaluationFinished)]
        told.clear()
        resumed = train(run={"name": "stopped"}, listeners=[told.append], resume=True, **RUN)
        assert outcome(resumed.folder) == outcome(whole.folder)
        kinds = (events.EvaluationFinished, events.StepFinished)
        assert isinstance(next(each for each in told if isinstance(each, kinds)), events.EvaluationFinished)

    @pytest.mark.parametrize("batch", [2, 5, 8, 11])  # of three at each of steps 4, 8 and 12, and three of the test
    def test_breaks_an_evaluation_off(self, train, toy, batch):
        """Random numbers that were drawn for it are drawn again."""

        class Drawing(toy.Side):
            batches = 0
            struck_at = 0

            def loss(self, output, target):
                if not torch.is_grad_enabled():
                    type(self).batches += 1
                    if self.batches == self.struck_at:
                        os.kill(os.getpid(), signal.SIGINT)
                return super().loss(output, target) * (1 + 0.1 * random.random())  # noqa: S311

        settings = {"tasks_given": {"side": Drawing}, "strategy": "gradnorm"}
        whole = train(run={"name": "whole"}, **settings)
        Drawing.batches, Drawing.struck_at = 0, batch
        with pytest.raises(Stopped):
            train(run={"name": "stopped"}, **settings)
        assert Drawing.batches == batch
        resumed = train(run={"name": "stopped"}, resume=True, **settings)
        assert outcome(resumed.folder) == outcome(whole.folder)

    def test_events_of_going_on_begin_where_it_was(self, train, stop):
        stop(5)
        told = []
        train(resume=True, listeners=[told.append])
        assert told[0].step == 5
        assert [event.step for event in told if isinstance(event, events.StepFinished)] == list(range(6, 13))


class TestResume:
    def test_of_nothing_starts_the_run(self, train, weights):
        assert weights(train(resume=True).folder) == weights(train(run={"name": "other"}).folder)

    def test_of_a_finished_run_returns_its_results(self, train):
        run = train()
        before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
        told = []
        again = train(resume=True, listeners=[told.append])
        assert again == run
        assert told == []
        assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before

    def test_from_its_own_configuration(self, stop, configure, registry_with, tmp_path):
        stop(5)
        run = mtlkit.train(tmp_path / "toy" / "config.yaml", resume=True, registry=registry_with())
        assert run.steps == 12

    @pytest.mark.parametrize(
        ("change", "shown"),
        [
            ({"training": {"steps": 13}}, "training.steps was 12 and is 13"),
            ({"run": {"seed": 1}}, "run.seed was 0 and is 1"),
            ({"encoder": {"name": "mlp", "layers": [8], "dropout": 0.5}}, "encoder.dropout was 0.0 and is 0.5"),
            ({"strategy": "gradnorm"}, "strategy.name was 'mtlkit:fixed' and is 'mtlkit:gradnorm'"),
            ({"checkpoints": {"best": "last"}}, "checkpoints.best was 'loss' and is 'last'"),
            ({"tasks": ["side", {"name": "distance", "weight": 2.0}]}, "tasks[1].weight was 1.0 and is 2.0"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_with_another_configuration_is_refused(self, train, stop, tmp_path, change, shown, finished):
        if finished:
            train()
        else:
            stop(5)
        with pytest.raises(ConfigError, match="was started with another configuration") as caught:
            train(resume=True, **change)
        assert shown in str(caught.value)
        go_on = f"mtlkit resume {tmp_path / 'toy'}."
        assert (go_on in str(caught.value)) is not finished

    def test_of_a_folder_that_is_no_run(self, train, tmp_path):
        (tmp_path / "toy").mkdir()
        with pytest.raises(CheckpointError, match="is no run folder"):
            train(resume=True)

    def test_after_a_failure_goes_on_from_the_last_checkpoint(self, train, toy):
        class Flaky(toy.Side):
            healed = False
            calls = 0

            def loss(self, output, target):
                type(self).calls += 1
                if self.calls > 20 and not self.healed:
                    raise RuntimeError("not today")
                return super().loss(output, target)

        whole = train(run={"name": "whole"}, **RUN)
        with pytest.raises(PluginError, match="not today"):
            train(tasks_given={"side": Flaky}, run={"name": "failed"}, **RUN)
        Flaky.healed = True
        resumed = train(tasks_given={"side": Flaky}, run={"name": "failed"}, resume=True, **RUN)
        assert outcome(resumed.folder) == outcome(whole.folder)


class TestDamage:
    def test_of_the_newest_checkpoint_falls_back(self, train, stop):
        whole = train(run={"name": "whole"}, **RUN)
        stop(6, run={"name": "stopped"}, **RUN)
        damage(whole.folder.with_name("stopped") / "checkpoints" / "step-000006")
        with pytest.warns(UserWarning, match=r"step-000006.* is damaged.*Going on from .*step-000004, which is older"):
            resumed = train(run={"name": "stopped"}, resume=True, **RUN)
        assert outcome(resumed.folder) == outcome(whole.folder)

    def test_of_one_that_was_being_dropped_goes_with_it(self, train):
        run = train(**RUN)
        before = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
        (run.folder / "done.json").unlink()
        (run.folder / "checkpoints" / "step-000002").mkdir()
        (run.folder / "checkpoints" / "step-000002" / "weights.safetensors").write_bytes(b"")
        train(resume=True, **RUN)
        assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == before

    def test_of_all_checkpoints(self, train, stop, tmp_path):
        stop(6)
        folders = list((tmp_path / "toy" / "checkpoints").iterdir())
        for folder in folders:
            damage(folder)
        with pytest.raises(CheckpointError, match="No checkpoint of the run is whole") as caught:
            train(resume=True)
        assert caught.value.exit_code == 5
        assert all(str(folder) in str(caught.value) for folder in folders)

    def test_of_no_checkpoint_yet_starts_anew(self, train, toy):
        whole = train(run={"name": "whole"}, **RUN)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            train(run={"name": "failed"}, listeners=[pull_the_plug(4)], **RUN)
        assert (whole.folder.with_name("failed") / "metrics.jsonl").stat().st_size > 0
        resumed = train(run={"name": "failed"}, resume=True, **RUN)
        assert outcome(resumed.folder) == outcome(whole.folder)

    def test_of_records_that_a_crash_cut_in_mid_line(self, train, stop, tmp_path):
        whole = train(run={"name": "whole"}, **RUN)
        stop(5, run={"name": "stopped"}, **RUN)
        with (tmp_path / "stopped" / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"event": "st')
        assert outcome(train(run={"name": "stopped"}, resume=True, **RUN).folder) == outcome(whole.folder)

    def test_of_the_end_alone_is_made_again(self, train):
        run = train(**RUN)
        before = outcome(run.folder)
        (run.folder / "done.json").unlink()
        assert outcome(train(resume=True, **RUN).folder) == before

    def test_of_the_best_weights(self, train):
        run = train()
        (run.folder / "done.json").unlink()
        damage(run.folder / "best")
        with pytest.raises(CheckpointError, match=r"best.weights\.safetensors is damaged"):
            train(resume=True)


def pull_the_plug(step):
    """Return a listener that ends a run without ado."""

    def listen(event):
        if isinstance(event, events.StepFinished) and event.step == step:
            raise RuntimeError("pulled the plug")

    return listen


SLOW = """
import time
from pathlib import Path

from torch.nn import functional as F
from torchmetrics import MeanSquaredError

import torch
import mtlkit


class Rows(mtlkit.Source):
    def splits(self):
        inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        return {"train": mtlkit.Split(inputs, {"sum": inputs.sum(1, keepdim=True)})}


class Slow(mtlkit.Task):
    loss_kind = "regression"
    target = "sum"

    def __init__(self, *, seconds: float = 0.0, started: str = "started") -> None:
        self.seconds, self.started = seconds, Path(started)

    def source(self):
        return Rows()

    def head(self, features):
        return mtlkit.heads.Linear(features, 1)

    def loss(self, output, target):
        if torch.is_grad_enabled() and len(target) == 16:  # neither the probe nor an evaluation
            self.started.touch()
            time.sleep(self.seconds)
        return F.mse_loss(output, target)

    def metrics(self):
        return {"mse": MeanSquaredError()}


slow = mtlkit.plugin(Slow)
"""


class TestSubprocess:
    """What only another process can show."""

    @pytest.fixture(name="site")
    def fixture_site(self, lay):
        return lay("slow-plugin", entry_points={"tasks": {"slow": "slow_tasks:slow"}}, modules={"slow_tasks": SLOW})

    @pytest.fixture(name="start")
    def fixture_start(self, site, tmp_path):
        """Return a function that starts ``mtlkit train`` on a slow task."""
        started = []

        def start(*, seconds, name="slow", steps=30):
            config = tmp_path / f"{name}.yaml"
            config.write_text(
                json.dumps(
                    {
                        "run": {"name": name, "dir": str(tmp_path / "my runs")},
                        "tasks": [
                            {"name": "slow", "options": {"seconds": seconds, "started": str(tmp_path / "started")}}
                        ],
                        "encoder": {"name": "mlp", "layers": [4], "dropout": 0.2},
                        "training": {"steps": steps, "steps_per_epoch": 2, "batch_size": 16, "threads": 1},
                    }
                ),
                encoding="utf-8",
            )
            process = subprocess.Popen(
                [sys.executable, "-m", "mtlkit", "train", str(config), "training.device=cpu"],
                env=os.environ | {"PYTHONPATH": str(site)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            return process, config

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def wait_for(self, path, process):
        """Wait until a file is there."""
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def test_killed_goes_on_to_the_same_end(self, start, site, tmp_path, monkeypatch):
        process, config = start(seconds=0.05)
        folder = tmp_path / "my runs" / "slow"
        self.wait_for(folder / "checkpoints" / "step-000006" / "manifest.json", process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert not (folder / "done.json").exists()
        monkeypatch.syspath_prepend(str(site))
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings["training"]["device"] = "cpu"
        steps = []
        resumed = mtlkit.train(
            settings, resume=True, listeners=[lambda event: steps.append(getattr(event, "step", None))]
        )
        assert steps[0] >= 6
        settings["run"]["name"] = "whole"
        whole = mtlkit.train(settings)
        assert outcome(resumed.folder) == outcome(whole.folder)

    def test_ctrl_c_says_where_the_run_is_and_how_to_go_on(self, start, site, tmp_path, monkeypatch):
        process, config = start(seconds=0.3)
        self.wait_for(tmp_path / "started", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert out == ""
        folder = tmp_path / "my runs" / "slow"
        assert f"Stopped after step 1 of 30; the run is saved in {folder}." in err
        assert "Traceback" not in err
        command = err.partition("Go on with: ")[2].strip()
        assert command == f"mtlkit train {config} training.device=cpu --resume"
        # And that command works.
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setattr(time, "sleep", lambda _: None)
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
        assert f"The run is in {folder}" in result.output

    def test_second_ctrl_c_ends_at_once(self, start, tmp_path):
        process, _ = start(seconds=PATIENCE)
        self.wait_for(tmp_path / "started", process)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)  # it waits for the step
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE / 2)  # less than the step takes
        assert process.returncode == 130
        assert "Nothing was written" not in err
        assert "Traceback" not in err


@pytest.mark.parametrize("place", ["mtlkit.cli.output.Output.fail", "click.Group.invoke", "click.Group.make_context"])
def test_ctrl_c_outside_of_a_command_has_the_same_exit_code(monkeypatch, tmp_path, place):
    """The first of them is where another one is told of."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mtlkit.app.train", interrupt)
    monkeypatch.setattr(place, interrupt)
    config = tmp_path / "run.yaml"
    config.write_text("tasks: [slow]\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["train", str(config)])
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize(
    "overrides", [["encoder.layers=[8, 4]"], ["run.dir=my runs"], ["tasks.slow.options={seconds: 1}", "run.name=it's"]]
)
def test_command_to_go_on_with_can_be_pasted(monkeypatch, tmp_path, overrides):
    from mtlkit import app

    def stop(*_, **__):
        raise Stopped("Stopped.", signal.SIGINT)

    monkeypatch.setattr(app, "train", stop)
    config = tmp_path / "my run.yaml"
    config.write_text("tasks: [slow]\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["train", str(config), *overrides])
    assert result.exit_code == 130
    command = result.output.partition("Go on with: ")[2]
    assert shlex.split(command) == ["mtlkit", "train", str(config), *overrides, "--resume"]


def test_another_version_is_told_of(train, stop, tmp_path):
    stop(5)
    path = tmp_path / "toy" / "environment.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    del before["seal"]  # which would tell of the edit
    path.write_text(json.dumps(before | {"torch": "1.0"}), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"torch was 1\.0 and is"):
        train(resume=True)


def test_a_run_that_was_moved_goes_on(train, stop, tmp_path):
    stop(5)
    (tmp_path / "toy").rename(tmp_path / "moved")
    assert train(resume=True, run={"name": "moved"}).steps == 12
