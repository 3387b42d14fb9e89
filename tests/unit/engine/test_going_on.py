"""Going on with a run by its folder: what may be another, what that means, what is written down of it."""

import json
import signal

import pytest

import mtlkit
from mtlkit import app
from mtlkit.engine import events
from mtlkit.errors import CheckpointError, ConfigError, Stopped
from mtlkit.locking import Lock, last_use
from mtlkit.yamlfile import load

DROPPING = {"name": "mtlkit:mlp", "layers": [8], "dropout": 0.3}


@pytest.fixture(name="resume")
def fixture_resume(tmp_path, registry_with):
    """Return a function that goes on with the run 'toy'."""

    def resume(*overrides, name="toy", listeners=(), on_changes=lambda _: None):
        return mtlkit.resume(
            tmp_path / name,
            overrides=overrides,
            listeners=listeners,
            on_changes=on_changes,
            registry=registry_with(),
        )

    return resume


@pytest.fixture(name="stop")
def fixture_stop(train):
    """Return a function that starts a run and stops it after a step."""

    def stop(step, **settings):
        def listen(event):
            if isinstance(event, events.StepFinished) and event.step == step:
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(Stopped):
            train(listeners=[listen], **settings)

    return stop


def history(folder):
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    each = [json.loads(line) for line in lines]
    assert all(line.pop("time").endswith("+00:00") for line in each)
    return each


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcome(folder):
    """Return what must not depend on where a run was stopped, or how often."""
    (*_, newest) = sorted((folder / "checkpoints").iterdir())
    names = ("weights.safetensors", "state.safetensors")
    paths = [folder / "metrics.jsonl", folder / "done.json", folder / "best" / names[0], *(newest / n for n in names)]
    return [path.read_bytes() for path in paths]


class TestAsItWas:
    def test_ends_as_if_never_stopped(self, train, stop, resume, tmp_path):
        whole = train(run={"name": "whole"}, encoder=DROPPING, schedule="cosine")
        stop(5, encoder=DROPPING, schedule="cosine")
        told = []
        resumed = resume(listeners=[told.append])
        assert outcome(resumed.folder) == outcome(whole.folder)
        assert told[0].step == 5
        assert history(resumed.folder) == [{"event": "resumed", "step": 5, "differences": []}]
        assert last_use(resumed.folder).ended == "finished"

    def test_wherever_the_folder_is_now(self, stop, resume, tmp_path):
        stop(5)
        (tmp_path / "toy").rename(tmp_path / "moved to here")
        assert resume(name="moved to here").steps == 12
        assert (tmp_path / "moved to here" / "done.json").exists()
        assert not (tmp_path / "toy").exists()

    def test_a_finished_one_says_what_came_of_it(self, train, resume):
        run = train()
        before = contents(run.folder)
        assert resume() == run
        assert contents(run.folder) == before

    def test_the_word_of_how_it_ended(self, train, stop, tmp_path):
        def fail(event):
            if isinstance(event, events.StepFinished) and event.step == 2:
                assert last_use(tmp_path / "failed").ended is None
                raise RuntimeError("not today")

        stop(5)
        assert last_use(tmp_path / "toy").ended == "stopped"
        with pytest.raises(RuntimeError):
            train(run={"name": "failed"}, listeners=[fail])
        use = last_use(tmp_path / "failed")
        assert (use.ended, use.error) == ("failed", "RuntimeError: not today")

    @pytest.mark.parametrize("content", ["", "tasks: 3\n", "[]\n", "tasks: [\n"])
    def test_a_configuration_that_is_damaged(self, stop, resume, tmp_path, content):
        stop(5)
        (tmp_path / "toy" / "config.yaml").write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"config\.yaml is no run configuration"):
            resume()


class TestLonger:
    """With a constant learning rate, a run that is prolonged is the run that had been longer from the start."""

    @pytest.mark.parametrize("finished", [True, False])
    def test_is_as_if_it_had_been_so_from_the_start(self, train, stop, resume, finished):
        whole = train(run={"name": "whole"}, encoder=DROPPING, strategy="gradnorm")
        settings = {"encoder": DROPPING, "strategy": "gradnorm", "training": {"steps": 8}}
        if finished:
            train(**settings)
        else:
            stop(3, **settings)
        assert outcome(resume("training.steps=12").folder) == outcome(whole.folder)

    def test_by_epochs_takes_the_place_of_steps(self, train, resume):
        folder = train(training={"steps": 8}).folder
        told = []
        assert resume("training.epochs=3", on_changes=told.extend).steps == 12
        assert [str(change) for change in told] == [
            "training.epochs was None and is 3",
            "training.steps was 8 and is None",
        ]
        assert history(folder) == [
            {
                "event": "changed",
                "changes": [
                    {"setting": "training.epochs", "before": None, "after": 3},
                    {"setting": "training.steps", "before": 8, "after": None},
                ],
            },
            {"event": "resumed", "step": 8, "differences": []},
        ]
        training = load(folder / "config.yaml").data["training"]
        assert (training["epochs"], training["steps"]) == (3, None)
        assert resume().steps == 12  # by what it is now

    def test_under_a_schedule_warns_of_what_it_means(self, train, resume):
        train(schedule={"name": "linear", "warmup": 0.25}, training={"steps": 8})
        with pytest.warns(
            UserWarning, match=r"to have 8 steps and now has 16\. From here on the learning rates go by that"
        ) as told:
            resume("training.steps=16")
        # At step 8: of 8 the last was 7, at 1 - 5/6 of 0.02; of 16, it is at 1 - 4/12.
        assert "The learning rate was 0.00333 and goes on at 0.0133." in str(told[0].message)

    def test_under_a_mixing_that_changes_too(self, train, resume):
        tasks = ["side", {"name": "distance", "options": {"rows": 50, "seed": 2}}]
        train(tasks=tasks, mixing="annealed", training={"steps": 4})
        with pytest.warns(UserWarning, match="From here on the shares of the mixing go by that"):
            resume("training.steps=8")

    @pytest.mark.parametrize("steps", [1, 5])
    def test_no_longer_than_it_is_already(self, stop, resume, tmp_path, steps):
        stop(5)
        before = contents(tmp_path / "toy")
        with pytest.raises(ConfigError, match=f"is at step 5 already, and {steps} steps would be no more"):
            resume(f"training.steps={steps}")
        assert contents(tmp_path / "toy") == before

    def test_shorter_than_planned(self, stop, resume):
        stop(5)
        assert resume("training.steps=7").steps == 7

    def test_without_a_checkpoint_left(self, train, resume):
        folder = train().folder
        for checkpoint in (folder / "checkpoints").iterdir():
            checkpoint.rename(folder.parent / checkpoint.name)
        with pytest.raises(CheckpointError, match="is finished, and has no checkpoint left to go on from"):
            resume("training.steps=20")


class TestOtherSettings:
    @pytest.mark.parametrize(
        "override",
        ["training.log_every=3", "diagnostics.every=2", "checkpoints.keep=1", "checkpoints.every=2", "run.title=Hm"],
    )
    def test_that_may_be_another(self, stop, resume, records, tmp_path, override):
        stop(5)
        told = []
        resume(override, on_changes=told.extend)
        (change,) = told
        assert override == f"{change.setting}={change.after}"
        assert load(tmp_path / "toy" / "config.yaml").data != {}
        assert history(tmp_path / "toy")[0]["changes"][0]["setting"] == change.setting
        if "log_every" in override:
            assert [each["step"] for each in records(tmp_path / "toy", "step")] == [1, 2, 3, 4, 5, 6, 9, 12]

    @pytest.mark.parametrize(
        "override", ["run.seed=1", "encoder.dropout=0.5", "strategy.name=gradnorm", "tasks.side.weight=2"]
    )
    def test_that_may_not(self, stop, resume, tmp_path, override):
        stop(5)
        before = contents(tmp_path / "toy")
        with pytest.raises(ConfigError, match="was started with another configuration:\n  ") as caught:
            resume(override, "training.steps=20")
        told = str(caught.value)
        assert "What may be another when a run goes on: training.epochs, training.steps, training.log_every" in told
        assert "training.steps was" not in told
        assert contents(tmp_path / "toy") == before

    def test_of_a_finished_run(self, train, resume):
        folder = train().folder
        before = contents(folder)
        with pytest.raises(ConfigError, match=r"has come to its end:\n  training\.log_every was 1 and is 5"):
            resume("training.log_every=5")
        assert contents(folder) == before


class TestByName:
    """The same from a configuration that was edited: what is another is allowed by its name."""

    def test_not_allowed(self, stop, train, tmp_path):
        stop(5)
        with pytest.raises(ConfigError, match=r"To go on so, allow it by name: --allow training\.steps\.") as caught:
            train(resume=True, training={"steps": 20})
        assert f"As it was, it goes on with: mtlkit resume {tmp_path / 'toy'}." in str(caught.value)

    @pytest.mark.parametrize("name", ["training.steps", "training.epochs"])
    def test_allowed(self, stop, configure, registry_with, name):
        stop(5)
        run = app.train(configure(training={"steps": 16}), resume=True, allow=[name], registry=registry_with())
        assert run.steps == 16

    def test_not_what_cannot_be(self, configure, tmp_path):
        with pytest.raises(ConfigError, match=r"A run cannot go on with another training\.epoch\. Did you mean"):
            app.train(configure(), resume=True, allow=["training.epoch"])
        with pytest.raises(ConfigError, match=r"another encoder\.layers"):
            app.train(configure(), allow=["encoder.layers"])
        assert not (tmp_path / "toy").exists()


class TestOneProcess:
    def test_who_is_told_of_another(self, stop, resume, train, tmp_path):
        stop(5)
        lock = Lock.acquire(tmp_path / "toy")
        before = contents(tmp_path / "toy")
        for go_on in (resume, lambda: train(resume=True)):
            with pytest.raises(ConfigError, match="is in use by process"):
                go_on()
        with pytest.raises(ConfigError, match="exists already, and is in use by process"):
            train()
        assert contents(tmp_path / "toy") == before
        lock.release()
        assert resume().steps == 12

    def test_to_read_takes_no_lock(self, train, resume, registry_with):
        run = train()
        lock = Lock.acquire(run.folder)
        assert resume() == run
        assert mtlkit.evaluate(run.folder, registry=registry_with())[1] == run.results
        lock.release()

    def test_a_second_start_is_turned_away_at_once(self, train, toy, tmp_path):
        class Read(toy.Side):
            def source(self):
                raise AssertionError("the rows were read for nothing")

        train()
        with pytest.raises(ConfigError, match="exists already"):
            train(tasks_given={"side": Read})


class TestAnotherMachine:
    def saved(self, folder):
        saved = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        return {name: value for name, value in saved.items() if name != "seal"}  # which would tell of the edit

    def test_what_is_recorded(self, train):
        saved = self.saved(train().folder)
        assert saved.keys() >= {"torch", "numpy", "python", "platform", "processor", "cpu_capability", "device"}
        assert (saved["threads"], saved["device"], saved["deterministic"]) == (1, "cpu", True)
        assert isinstance(saved["interop_threads"], int)
        assert saved["workers"] == 0

    @pytest.mark.parametrize(
        ("name", "before", "told"),
        [
            ("threads", 8, "threads was 8 and is 1"),
            ("numpy", "1.0", "numpy was 1.0 and is"),
            ("device", "cuda:0", "device was cuda and is cpu"),
            ("device_name", "NVIDIA H100", "device_name was NVIDIA H100 and is nothing"),
            ("processor", "Z80\n\x1b[2J", r"processor was Z80 \[2J and is"),
            ("deterministic", False, "deterministic was False and is True"),
        ],
    )
    def test_that_can_change_bits_is_a_warning(self, stop, resume, tmp_path, name, before, told):
        stop(5)
        path = tmp_path / "toy" / "environment.json"
        path.write_text(json.dumps(self.saved(path.parent) | {name: before}), encoding="utf-8")
        with pytest.warns(UserWarning, match=f"The run may not go on bit for bit: {told}"):
            resume()
        assert len(history(path.parent)[0]["differences"]) == 1

    @pytest.mark.parametrize(("name", "before"), [("interop_threads", 99), ("workers", 7), ("start_method", "fork")])
    def test_that_cannot_is_none(self, stop, resume, tmp_path, name, before):
        stop(5)
        path = tmp_path / "toy" / "environment.json"
        path.write_text(json.dumps(self.saved(path.parent) | {name: before}), encoding="utf-8")
        assert resume().steps == 12

    def test_without_the_device_that_it_was_on(self, stop, resume, tmp_path):
        """It goes on elsewhere if it is told to: what the configuration names need not be there to be compared."""
        stop(5)
        path = tmp_path / "toy" / "config.yaml"
        _, _, text = path.read_text(encoding="utf-8").partition("\n")  # without its seal, which would tell of the edit
        path.write_text(text.replace("device: cpu", "device: cuda:99"), encoding="utf-8")
        with pytest.raises(ConfigError, match="The device 'cuda:99' is not available on this machine"):
            resume()
        told = []
        assert resume("training.device=cpu", on_changes=told.extend).steps == 12
        assert [str(change) for change in told] == ["training.device was 'cuda:99' and is 'cpu'"]

    def test_that_an_older_run_does_not_tell_of_is_none(self, stop, resume, tmp_path):
        stop(5)
        path = tmp_path / "toy" / "environment.json"
        names = ("processor", "cpu_capability", "interop_threads", "numpy", "deterministic", "threads", "device")
        path.write_text(
            json.dumps({k: v for k, v in self.saved(path.parent).items() if k not in names}), encoding="utf-8"
        )
        assert resume().steps == 12
