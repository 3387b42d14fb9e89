"""``mtlkit resume``: what a person and a program see of a run that goes on."""

from __future__ import annotations

import json
import shlex
import signal

import pytest

from mtlkit.engine import events, loop
from mtlkit.locking import Lock


@pytest.fixture
def stopped(mtlkit, monkeypatch):
    """Return a function that starts a run by a command, which a signal stops after a step."""

    def stop(*arguments, step=2):
        made = events.StepFinished

        def finished(number):
            if number == step:
                signal.raise_signal(signal.SIGINT)
            return made(number)

        monkeypatch.setattr(loop, "StepFinished", finished)
        done = mtlkit("train", "run.yaml", *arguments)
        monkeypatch.undo()
        assert done.exit_code == 130, done.output
        return done

    return stop


def damage(checkpoint):
    path = checkpoint / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


class TestResume:
    def test_for_a_person(self, mtlkit, folder, stopped, monkeypatch):
        stopped()
        monkeypatch.chdir(folder)
        done = mtlkit("resume", "runs/first")
        assert done.exit_code == 0, done.output
        assert done.stderr.startswith("Training digit, parity from step 2 to step 3 in runs/first\n")
        assert done.stdout.startswith("Test split, weights of step 3 of 3\n")
        assert done.stdout.endswith("The run is in runs/first\n")

    def test_longer(self, mtlkit, folder, stopped, monkeypatch):
        stopped()
        monkeypatch.chdir(folder)
        done = mtlkit("resume", "runs/first", "training.steps=5", "schedule.name=constant")
        assert done.exit_code == 0, done.output
        assert done.stderr.splitlines()[:3] == [
            "It goes on with another configuration",
            "setting         before  from here on",
            "training.steps  3       5",
        ]
        again = mtlkit("resume", "runs/first", "--json")
        assert json.loads(again.stdout)["steps"] == 5
        assert again.stderr == ""

    def test_what_may_not_be_another(self, mtlkit, folder, stopped, monkeypatch):
        stopped()
        monkeypatch.chdir(folder)
        done = mtlkit("resume", "runs/first", "encoder.layers=[4]", "run.seed=2")
        assert done.exit_code == 2
        assert done.stderr.startswith(
            "Error: The run runs/first was started with another configuration:\n"
            "  run.seed was 0 and is 2\n"
            "  encoder.layers[0] was 8 and is 4. Another run.name begins another run."
        )
        assert done.stderr.endswith("As it was, it goes on with: mtlkit resume runs/first.\n")

    def test_by_the_name_of_the_run(self, mtlkit, folder, stopped, monkeypatch):
        stopped()
        monkeypatch.chdir(folder)
        refused = mtlkit("train", "run.yaml", "training.steps=4", "--resume")
        assert refused.exit_code == 2
        assert "--allow training.steps." in refused.stderr
        done = mtlkit("train", "run.yaml", "training.steps=4", "--resume", "--allow", "training.steps")
        assert done.exit_code == 0, done.output
        assert "training.steps  3       4" in done.stderr

    def test_stopped_again_says_how_to_go_on(self, mtlkit, folder, stopped, monkeypatch):
        done = stopped("run.name=it", "run.dir=my runs", step=1)
        assert "is saved in my runs/it." in done.stderr
        monkeypatch.chdir(folder)
        monkeypatch.setattr("mtlkit.engine.stopping.StopRequest.__bool__", lambda _: True)
        done = mtlkit("resume", "my runs/it", "--no-plugins")
        assert done.exit_code == 3  # the tasks are plugins
        monkeypatch.setattr("mtlkit.engine.stopping.StopRequest.signal_number", 2, raising=False)
        done = mtlkit("resume", "my runs/it")
        command = done.stderr.partition("Go on with: ")[2].strip()
        assert shlex.split(command) == ["mtlkit", "resume", "my runs/it"]

    def test_in_use(self, mtlkit, folder, stopped, monkeypatch):
        stopped()
        monkeypatch.chdir(folder)
        lock = Lock.acquire(folder / "runs" / "first")
        done = mtlkit("resume", "runs/first", "--json")
        lock.release()
        assert done.exit_code == 2
        error = json.loads(done.stdout)["error"]
        assert error["message"].startswith("The run runs/first is in use by process ")
        assert mtlkit("evaluate", "runs/first").exit_code == 5  # which has not come to its first evaluation


class TestDamage:
    @pytest.mark.filterwarnings("default:.*which is older")
    def test_of_the_newest_checkpoint_falls_back(self, mtlkit, folder, stopped, monkeypatch):
        stopped("training.steps_per_epoch=1")
        monkeypatch.chdir(folder)
        damage(folder / "runs" / "first" / "checkpoints" / "step-000002")
        done = mtlkit("resume", "runs/first")
        assert done.exit_code == 0, done.output
        warning = next(line for line in done.stderr.splitlines() if line.startswith("Warning: "))
        assert "step-000002/weights.safetensors is damaged" in warning
        assert warning.endswith("Going on from runs/first/checkpoints/step-000001, which is older.")
        assert "from step 1 to step 3" in done.stderr

    def test_of_all_leaves_a_finished_run_that_is_to_be_longer_as_it_is(self, mtlkit, folder):
        assert mtlkit("train", "run.yaml", "-q").exit_code == 0
        run = folder / "runs" / "first"
        for checkpoint in (run / "checkpoints").iterdir():
            damage(checkpoint)
        whole = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name != "lock.json"}
        done = mtlkit("resume", "runs/first", "training.steps=5")
        assert done.exit_code == 5
        assert "No checkpoint of the run is whole." in done.stderr
        assert "done.json" in whole
        after = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name != "lock.json"}
        assert after == whole

    def test_of_all(self, mtlkit, folder, stopped, monkeypatch):
        stopped("training.steps_per_epoch=1")
        monkeypatch.chdir(folder)
        checkpoints = sorted((folder / "runs" / "first" / "checkpoints").iterdir())
        for checkpoint in checkpoints:
            damage(checkpoint)
        done = mtlkit("resume", "runs/first")
        assert done.exit_code == 5
        assert done.stderr.startswith("Error: No checkpoint of the run is whole.")
        assert all(f"{path.name}/weights.safetensors is damaged" in done.stderr for path in checkpoints)
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("name", ["nowhere", "run.yaml"])
    def test_of_what_is_no_run(self, mtlkit, name):
        done = mtlkit("resume", name)
        assert done.exit_code == 5
        assert f"{name} is no run folder" in done.stderr
