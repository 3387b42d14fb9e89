"""Plugins that are told of runs: what they hear, which options they take, and what becomes of a run when they fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import mtlkit as package
from mtlkit.errors import CheckpointError
from mtlkit.runhooks import HookFailure
from mtlkit.yamlfile import load

HOOKS = [
    "mtlkit_run_started",
    "mtlkit_step_recorded",
    "mtlkit_epoch_finished",
    "mtlkit_evaluation_finished",
    "mtlkit_checkpoint_written",
    "mtlkit_run_finished",
]
TRACKER = """
from typing import Annotated, Literal

from pydantic import Field

import mtlkit


class Tracker:
    '''Keeps what it is told.

    Args:
        project: What the run belongs to.
        every: How many steps it waits.
        mode: Where it keeps it.
    '''

    made = []

    def __init__(self, *, project: str = "wines", every: Annotated[int, Field(ge=1)] = 1,
                 mode: Literal["online", "offline"] = "offline") -> None:
        if project == "forbidden":
            raise ValueError(f"no project can be called {project!r}")
        if project == "broken":
            raise RuntimeError("no connection")
        self.options = {"project": project, "every": every, "mode": mode}
        self.told = []
        self.made.append(self)
"""
HEAR = "\n    @mtlkit.hookimpl\n    def {hook}(self, event):\n        {body}\n"
END = "\ntracker = mtlkit.plugin(Tracker)\n"


def text(**bodies: str) -> str:
    """Return a module with a tracker whose hooks do as they are told, by default remember the event."""
    hooks = [HEAR.format(hook=hook, body=bodies.get(hook, "self.told.append(event)")) for hook in HOOKS]
    return TRACKER + "".join(hooks) + END


def failing(what: str = "raise ValueError('no connection')") -> str:
    return text(**dict.fromkeys(HOOKS, what))


@pytest.fixture
def track(install, acme):
    """Return a function that installs the two tasks, and a tracker of the text that is given."""
    acme("colour", "price")

    def install_tracker(module: str) -> Path:
        return install(
            "acme-log", "0.5", entry_points={"plugins": {"tracker": "acme_log:tracker"}}, modules={"acme_log": module}
        )

    return install_tracker


@pytest.fixture
def settings(folder) -> dict[str, Any]:
    """The configuration as data; when a checkpoint is written would else be a matter of chance."""
    return load(folder / "run.yaml").data | {"hooks": ["tracker"], "checkpoints": {"background": False}}


def made() -> list[Any]:
    """Return the instances of the tracker."""
    return sys.modules["acme_log"].Tracker.made


def shape(event: Any) -> tuple[Any, ...]:
    """Return what an event is, where in the run it was, and what tells it from others of its kind."""
    told = vars(event)
    known = [told[key] for key in ("step", "epoch", "split", "best_step", "is_best") if key in told]
    return (type(event).__name__, *known)


class TestWhatTheyHear:
    def test_comes_in_order_with_its_epochs(self, track, settings):
        track(text())
        run = package.train(settings)
        (tracker,) = made()
        best = run.best_step
        validation = [shape(event) for event in tracker.told if getattr(event, "split", "") == "validation"]
        assert [each[:4] for each in validation] == [
            ("EvaluationFinished", 2, 1.0, "validation"),
            ("EvaluationFinished", 4, 2.0, "validation"),
        ]
        expected: list[tuple[Any, ...]] = [("RunStarted", 0)]
        for epoch in (1, 2):
            expected += [("StepRecorded", 2 * epoch - 1), ("StepRecorded", 2 * epoch)]
            expected += [("EpochFinished", 2 * epoch, epoch), validation[epoch - 1], ("CheckpointWritten", 2 * epoch)]
        expected += [("EvaluationFinished", best, best / 2, "test", True), ("RunFinished", best)]
        assert [shape(event) for event in tracker.told] == expected

    def test_is_whole(self, track, settings, folder):
        track(text())
        run = package.train(settings)
        (tracker,) = made()
        started, *_, test, finished = tracker.told
        assert (started.folder, list(started.labels), started.steps) == (run.folder, ["colour", "price"], 4)
        assert test.results == finished.results == run.results
        (recorded,) = [e for e in tracker.told if type(e).__name__ == "StepRecorded" and e.step == 3]
        record = {"event": "step", **vars(recorded)}
        assert json.dumps(record) in (run.folder / "metrics.jsonl").read_text(encoding="utf-8")
        saved = [e.folder for e in tracker.told if type(e).__name__ == "CheckpointWritten"]
        assert saved == sorted((run.folder / "checkpoints").iterdir())

    def test_is_heard_by_one_instance_a_run(self, track, settings):
        track(text())
        for name in ("first", "second"):
            package.train(settings | {"run": {"name": name, "dir": "runs"}})
        assert [tracker.told[0].folder.name for tracker in made()] == ["first", "second"]

    def test_is_not_heard_unless_it_is_named(self, track, settings):
        track(text())
        package.train(settings | {"hooks": []})
        assert "acme_log" not in sys.modules

    def test_can_be_changed_by_nobody_else(self, track, settings, folder):
        undisturbed = package.train(settings | {"run": {"name": "undisturbed", "dir": "runs"}, "hooks": []})
        change = "event.results['colour'].metrics.clear(); event.results.pop('price')"
        track(text(mtlkit_evaluation_finished=change, mtlkit_step_recorded="event.losses.clear()"))
        run = package.train(settings | {"hooks": ["tracker", "acme-log:tracker"]})
        assert (run.hook_failures, run.results) == ([], undisturbed.results)
        for name in ("metrics.jsonl", "done.json"):
            assert (run.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()

    def test_can_draw_at_random_without_a_trace(self, track, settings):
        settings |= {"encoder": {"layers": [4], "dropout": 0.5}}
        undisturbed = package.train(settings | {"run": {"name": "undisturbed", "dir": "runs"}, "hooks": []})
        seeds = "torch.manual_seed(5), random.seed(5), numpy.random.seed(5)"
        track("import random, numpy, torch\n" + text(**dict.fromkeys(HOOKS, seeds)))
        run = package.train(settings)
        assert run.hook_failures == []
        for name in ("metrics.jsonl", "checkpoints/step-000004/state.safetensors"):
            assert (run.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()

    def test_is_heard_by_a_module_too_which_takes_no_options(self, track, settings, folder, refused):
        module = "import mtlkit\ntold = []\n@mtlkit.hookimpl\ndef mtlkit_run_finished(event):\n    told.append(event)\n"
        site = track("")
        (site / "acme_log.py").write_text(module, encoding="utf-8")
        (metadata,) = site.glob("*.dist-info")
        (metadata / "entry_points.txt").write_text("[mtlkit.plugins]\ntracker = acme_log\n", encoding="utf-8")
        run = package.train(settings)
        assert [event.best_step for event in sys.modules["acme_log"].told] == [run.best_step]
        error = refused("check", "run.yaml", "hooks=[{name: tracker, project: x}]", code=2)
        assert "Unknown key 'project' at hooks[0].project" in error


class TestOptions:
    def test_are_typed_and_have_defaults(self, track, settings, folder):
        track(text())
        run = package.train(settings | {"hooks": [{"name": "Tracker", "every": 3}]})
        assert made()[0].options == {"project": "wines", "every": 3, "mode": "offline"}
        saved = load(run.folder / "config.yaml").data["hooks"]
        assert saved == [{"name": "acme-log:tracker", "project": "wines", "every": 3, "mode": "offline"}]

    def test_are_shown(self, track, mtlkit):
        track(text())
        done = mtlkit("show", "plugins", "tracker")
        assert done.exit_code == 0, done.output
        rows = [line.split() for line in done.stdout.splitlines()]
        assert rows[0][:6] == ["acme-log:tracker", "acme-log", "0.5,", "entry", "point", "mtlkit.plugins:"]
        assert ["every", "integer", "≥", "1", "1"] in rows
        assert ["mode", "online", "|", "offline", '"offline"'] in rows

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ("projet: x", "Unknown key 'projet' at hooks[1].projet (run.yaml:8:5). Did you mean 'project'?"),
            (
                "every: 0",
                "Cannot use 0 (integer) at hooks[1].every (run.yaml:8:12). It should be greater than or equal",
            ),
            ("every: x", "Cannot use 'x' at hooks[1].every (run.yaml:8:12)."),
            ("mode: onlin", "'onlin' at hooks[1].mode (run.yaml:8:11). Did you mean 'online'?"),
            ("project: forbidden", "No project can be called 'forbidden' at hooks[1] (run.yaml:7:5)."),
        ],
    )
    def test_are_checked_in_their_place(self, track, refused, folder, options, problem):
        track(text())
        with (folder / "run.yaml").open("a", encoding="utf-8") as file:
            file.write(f"hooks:\n  - name: tracker\n  - name: tracker\n    {options}\n")
        for command in ("check", "train"):
            assert problem in refused(command, "run.yaml", code=2)
        assert not (folder / "runs").exists()

    def test_may_be_refused_by_a_failure(self, track, refused):
        track(text())
        assert refused("train", "run.yaml", "hooks=[{name: tracker, project: broken}]") == (
            "Error: The plugin 'tracker' could not be constructed (acme-log 0.5, entry point mtlkit.plugins: tracker = "
            "acme_log:tracker): RuntimeError: no connection.\n"
        )

    def test_an_unknown_plugin(self, track, refused):
        track(text())
        error = refused("check", "run.yaml", "hooks=[traker]", code=2)
        assert "Unknown plugin 'traker' at hooks[0]" in error
        assert "Did you mean 'tracker'?" in error


@pytest.mark.filterwarnings("always:The hook mtlkit_")
class TestThatFail:
    @pytest.mark.parametrize(
        ("what", "said"),
        [
            ("raise ValueError('no connection')", "ValueError: no connection"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "Odd"),
        ],
    )
    def test_do_not_end_the_run(self, track, mtlkit, folder, what, said):
        undisturbed = mtlkit("train", "run.yaml", "run.name=undisturbed")
        track(failing(what))
        done = mtlkit("train", "run.yaml", "hooks=[tracker]")
        assert done.exit_code == 0, done.output
        assert done.stdout == undisturbed.stdout.replace("undisturbed", "first")
        warned = [line for line in done.stderr.splitlines() if line.startswith("Warning: ")]
        assert warned == [
            f"Warning: The hook {hook} of acme-log 0.5, entry point mtlkit.plugins: tracker = acme_log:tracker raised "
            f"{said}. The run goes on without it; further failures of this hook are not shown."
            for hook in HOOKS
        ]
        for hook in HOOKS:
            assert f"The plugin acme-log:tracker failed in its hook {hook}: {said}\n" in done.stderr
        for name in ("metrics.jsonl", "done.json", "best/weights.safetensors"):
            runs = folder / "runs"
            assert (runs / "first" / name).read_bytes() == (runs / "undisturbed" / name).read_bytes()

    def test_are_written_down(self, track, settings):
        track(failing())
        with pytest.warns(UserWarning, match="no connection") as caught:
            run = package.train(settings)
        assert len(caught) == len(HOOKS)
        steps = {"mtlkit_run_started": 0, "mtlkit_step_recorded": 1, "mtlkit_run_finished": None}
        expected = [
            HookFailure(
                "acme-log:tracker", "0.5", "acme_log:tracker", hook, steps.get(hook, 2), "ValueError: no connection"
            )
            for hook in HOOKS
        ]
        assert run.hook_failures == expected
        lines = (run.folder / "hook_failures.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [vars(each) for each in expected]
        assert package.train(settings, resume=True).hook_failures == expected  # of a run that is over

    @pytest.mark.parametrize("split", ["validation", "test"])  # before it was saved, and after
    def test_stand_once_in_a_run_that_was_stopped(self, track, settings, split):
        track(failing())
        with pytest.warns(UserWarning, match="no connection"):
            whole = package.train({**settings, "run": {**settings["run"], "name": "whole"}})

        def stop(event):
            if getattr(event, "split", None) == split:
                raise RuntimeError("pulled the plug")

        with pytest.warns(UserWarning, match="no connection"), pytest.raises(RuntimeError, match="pulled"):
            package.train(settings, listeners=[stop])
        with pytest.warns(UserWarning, match="no connection") as caught:
            run = package.train(settings, resume=True)
        assert sum("mtlkit_run_started" in str(each.message) for each in caught) == 1  # whoever goes on hears of it
        assert run.hook_failures == whole.hook_failures
        file = "hook_failures.jsonl"
        assert (run.folder / file).read_bytes() == (whole.folder / file).read_bytes()

    @pytest.mark.parametrize("line", ['{"step": 0}', "[1]", "{"])
    def test_that_are_no_records_are_told_of(self, track, settings, line):
        track(failing())
        with pytest.warns(UserWarning, match="no connection"):
            run = package.train(settings)
        (run.folder / "hook_failures.jsonl").write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"hook_failures\.jsonl"):
            package.train(settings, resume=True)

    def test_leave_the_others_their_events(self, track, install, settings):
        track(failing())
        module = text().replace("Tracker", "Other")
        install("zeta", entry_points={"plugins": {"other": "zeta_log:tracker"}}, modules={"zeta_log": module})
        with pytest.warns(UserWarning, match="no connection"):
            package.train(settings | {"hooks": ["tracker", "other"]})
        (other,) = sys.modules["zeta_log"].Other.made
        assert shape(other.told[-1])[0] == "RunFinished"
        assert len(other.told) == 13

    def test_ctrl_c_is_not_theirs(self, track, settings):
        track(failing("raise KeyboardInterrupt"))
        with pytest.raises(KeyboardInterrupt):
            package.train(settings)


class TestThatFailStrictly:
    STRICT = ("hooks=[tracker]", "plugins.strict=true")

    @pytest.mark.parametrize("hook", HOOKS)
    def test_end_the_run_which_goes_on_once_they_are_mended(self, track, uninstall, mtlkit, refused, folder, hook):
        assert mtlkit("train", "run.yaml", "run.name=undisturbed").exit_code == 0
        site = track(text(**{hook: "raise ValueError('no connection')"}))
        done = mtlkit("train", "run.yaml", *self.STRICT)
        assert done.exit_code == 3
        assert "Traceback" not in done.stderr
        assert f"Error: The hook {hook} of acme-log 0.5, entry point mtlkit.plugins: tracker = acme_log:" in done.stderr
        assert done.stderr.endswith(
            "no connection. The run ends there, since its plugins.strict is set; --resume goes on with it.\n"
        )
        uninstall(site)
        track(text())
        resumed = mtlkit("train", "run.yaml", *self.STRICT, "--resume")
        assert resumed.exit_code == 0, resumed.output
        for name in ("metrics.jsonl", "done.json", "best/weights.safetensors"):
            runs = folder / "runs"
            assert (runs / "first" / name).read_bytes() == (runs / "undisturbed" / name).read_bytes()
