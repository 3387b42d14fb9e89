"""The kit finds every defect that a plugin of run hooks may have, and lets pass what is only odd."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path

import pytest

import mtlkit
from mtlkit.engine import events
from mtlkit.hookspecs import RunHooks
from mtlkit.testing import Nonconformance, checks_of
from mtlkit.testing.plugins import CHECKS, sample_run
from mtlkit.testing.subject import Subject

BY_NAME = {check.name: check for check in CHECKS}

LOG = '''
"""Run hooks."""
import mtlkit

class Log:
    """Writes what it hears to a file."""

    def __init__(self, *, file: str = "heard.txt") -> None:
        self.file, self.lines = file, []

    @mtlkit.hookimpl
    def mtlkit_run_started(self, event):
        if self.lines:
            raise RuntimeError("a run is heard already")
        self.lines.append(str(event.labels))

    @mtlkit.hookimpl
    def mtlkit_step_recorded(self, event):
        self.lines.append(event.losses["one"])

    @mtlkit.hookimpl
    def mtlkit_run_finished(self, event):
        with open(self.file, "w") as file:
            print(*self.lines, file=file)

log = mtlkit.plugin(Log)
'''
# check, the module, what is said of it
DEFECTS = [
    (
        "hears_of_something",
        '''
import mtlkit

class Log:
    """Hears of what there may be one day."""

    @mtlkit.hookimpl(optionalhook=True)
    def mtlkit_batch_drawn(self, event): ...

log = mtlkit.plugin(Log)
''',
        "acme:log has none of the hooks of runs. .*one of these names: mtlkit_run_started, ",
    ),
    (
        "hooks_take_their_events",
        LOG.replace('event.losses["one"]', 'event.losses["other"]'),
        r"Its hook mtlkit_step_recorded, told of StepRecorded\(step=4, .*, raised KeyError: 'other'",
    ),
    ("hooks_take_their_events", LOG.replace("file, []", "file, [][0]"), "Its constructor raised IndexError"),
    (
        "hears_a_second_run",
        LOG.replace("mtlkit.plugin(Log)", "Log()"),
        "It heard one run, and not a second in the same process: Its hook mtlkit_run_started, .*heard already Keep",
    ),
    ("leaves_torch_unimported", f"{LOG}import torch\n", "Loading acme:log imports torch. .*inside the functions"),
    ("leaves_torch_unimported", f"{LOG}import mtlkit.app\n", "Loading acme:log imports torch"),
]


@pytest.fixture
def provide(install):
    """Return a function that installs the distribution acme with the plugin log, and returns it as a subject."""

    def provided(module, value="log:log"):
        install(
            "acme", entry_points={"plugins": {"log": value}}, modules={"log": module}, requires=["mtlkit>=0.1,<0.2"]
        )
        return Subject.of("acme:log")

    return provided


def failures(subject):
    found = {}
    for check in checks_of("plugins"):
        try:
            check.run(subject)
        except Nonconformance as failure:
            found[check.name] = str(failure)
    return found


@pytest.mark.parametrize(("name", "module", "message"), DEFECTS)
def test_a_defect_is_found(provide, name, module, message):
    subject = provide(module)
    with pytest.raises(Nonconformance, match=message):
        BY_NAME[name].run(subject)
    assert failures(subject).keys() == {name}


def test_every_check_has_a_defect():
    assert {name for name, *_ in DEFECTS} == BY_NAME.keys()


@pytest.mark.parametrize(
    ("module", "value"),
    [
        (LOG, "log:log"),
        (
            LOG.replace("def mtlkit_step_recorded(self, event)", "def mtlkit_step_recorded(self)").replace(
                'self.lines.append(event.losses["one"])', "pass"
            ),
            "log:log",
        ),
        (
            '"""A module of hooks."""\nfrom mtlkit import hookimpl\n\n@hookimpl\ndef mtlkit_run_finished(event): ...\n',
            "log",
        ),
        (LOG.replace("if self.lines:", "if False:").replace("mtlkit.plugin(Log)", "Log()"), "log:log"),
    ],
    ids=["class", "no argument", "module", "object"],
)
def test_what_is_sound_passes(provide, module, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert failures(provide(module, value)) == {}
    assert not (tmp_path / "heard.txt").exists()  # what a plugin writes beside a run is not left here


class TestClasses:
    def test_a_class_of_hooks_is_a_plugin(self):
        class Count:
            """Counts the steps that were recorded."""

            def __init__(self, *, start: int = 0) -> None:
                self.steps = start

            @mtlkit.hookimpl
            def mtlkit_step_recorded(self, event):
                self.steps += 1

        subject = Subject.of(Count, options={"start": 3})
        assert subject.kind == "plugins"
        assert failures(subject) == {}

    def test_a_class_without_hooks_may_be_called_one(self):
        class Deaf:
            """Hears nothing."""

        assert failures(Subject.of(Deaf, kind="plugins")).keys() == {"hears_of_something"}


class TestTheSampleRun:
    def test_every_hook_is_told_of_an_event_of_its_type(self, tmp_path):
        told = {(hook, type(event)) for hook, event in sample_run(tmp_path / "run")}
        specs = {name: spec for name, spec in vars(RunHooks).items() if name.startswith("mtlkit_")}
        types = {
            name: typing.get_type_hints(spec, {"events": events})["event"]
            for name, spec in specs.items()
            if "event" in inspect.signature(spec).parameters
        }
        assert told == set(types.items())

    def test_it_is_told_in_the_order_of_a_run(self, tmp_path):
        steps = [event.step for _, event in sample_run(tmp_path / "run") if isinstance(event, events.StepRecorded)]
        hooks = [hook for hook, _ in sample_run(tmp_path / "other")]
        assert steps == sorted(steps)
        assert (hooks[0], hooks[-1]) == ("mtlkit_run_started", "mtlkit_run_finished")

    def test_its_folders_are_there(self, tmp_path):
        for _, event in sample_run(tmp_path / "run"):
            assert Path(getattr(event, "folder", tmp_path)).is_dir()
