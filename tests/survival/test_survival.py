"""Runs that are killed and stopped at random moments, again and again, end with the bytes of one that nothing befell.

A killed run leaves the very files of one that was not, and no other. One that is stopped finishes its step and is
saved; so it may keep an older checkpoint of another step.
"""

from __future__ import annotations

import itertools
import random
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mtlkit.builtins import BUILTINS
from mtlkit.engine import checkpoint

SOON_S = 30.0  # for a process to end at once, on a machine that has other things to do
CODES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGINT: {130},
    signal.SIGTERM: {143, -signal.SIGTERM},  # of the second a shell tells as 143
}
NAMES = ["fixed", "uncertainty", "gradnorm", "sdmgrad", "famo", "dwa", "excess-mtl", "auto-lambda"]
# But the one that an encoder of this kind has nothing for.
ARCHITECTURES = [
    f"architecture={name}" for kind, name, _ in BUILTINS if kind == "architectures" and name != "task-embedding"
]
STRATEGIES = [f"strategy={name}" for kind, name, _ in BUILTINS if kind == "strategies"]


@dataclass
class Befell:
    """What befell the runs of one kind.

    Attributes:
        killed: How often one was killed.
        saved: How often one was stopped, and saved.
        at_once: How often one was stopped and ended at once, since it was not training or was told twice.
        slowest: The most seconds from the signal to the end of a run that was saved.
        runs: How many there were.
    """

    killed: int = 0
    saved: int = 0
    at_once: int = 0
    slowest: float = 0.0
    runs: int = 0


@pytest.fixture
def check(forge, prepare, whole, strikes, left, record_property):
    """Return a function that strikes runs of one kind so many times in all, each until it ends, and compares each."""

    def check(name: str, times: int, *signals: int, twice: bool = False) -> Befell:
        expected = whole(name)
        moments = strikes(sum(map(ord, name)), expected.seconds, *signals)
        if twice:
            moments = map(Twice(expected.seconds), moments)
        found = Befell()
        while found.killed + found.saved + found.at_once < times:
            folder = prepare(name, f"{name}-{found.runs}")
            found.runs += 1
            stopped, story = found.saved, []
            for number in itertools.count():
                strike, log = next(moments), folder / f"events-{number}.txt"
                ended = forge.start(folder, strike, log=log)
                story.append((strike, ended.exit_code))
                codes = {0, *CODES[strike.signals[0]]}
                if twice and "Aborted!" in ended.output:  # by click, once the command is over
                    codes.add(1)
                assert ended.exit_code in codes, (story, ended.output)
                assert "Going on from" not in ended.output, (story, ended.output)  # an older checkpoint
                assert "this is a bug" not in ended.output, (story, ended.output)
                if not ended.exit_code:
                    break
                note(found, folder / "runs" / "run", strike, ended, log)
            files = [left(folder), expected.left]
            ours, others = files if found.saved == stopped else map(without_older, files)
            assert differences(ours, others) == {}, story
        for key, value in vars(found).items():
            record_property(f"{name}: {key}", value)
        return found

    return check


class Twice:
    """Turns a strike into two at moments in time, one soon after the other."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.drawn = random.Random(seconds)  # noqa: S311

    def __call__(self, strike):
        after, pause = self.drawn.uniform(0, self.seconds), self.drawn.uniform(0, 0.05)
        signals = [*strike.signals] * 2
        return replace(strike, after=after, event=None, operation=None, signals=signals, pauses=[pause])


def note(found: Befell, run: Path, strike, ended, log: Path) -> None:
    """Note how a start of a run ended, and hold what a stopped one left, and how long it took, to what is promised."""
    if ended.exit_code == -signal.SIGKILL:
        found.killed += 1
        return
    told = re.search(r"Stopped after step (\d+) of \d+; the run is saved in (\S+)\.", ended.output)
    events = [line.split() for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    struck = float(events[strike.event - 1][2]) if strike.event else ended.struck
    if told is None:
        found.at_once += 1
        assert struck is None or ended.ended - struck < SOON_S
        return
    found.saved += 1
    step = int(told[1])
    assert checkpoint.verify(run / "checkpoints" / f"step-{step:06d}") == step
    if struck is not None:  # before an operation on a file, nobody looks at the clock
        found.slowest = max(found.slowest, ended.ended - struck)
        after = [event for event, _, at in events if float(at) > struck]
        assert after.count("StepRecorded") <= 1, events


def differences(ours: dict[str, bytes], others: dict[str, bytes]) -> dict[str, list[bytes | None]]:
    """Return the files that are not the same, and of each what is there from shortly before the first difference."""
    found = {}
    for name in sorted({*ours, *others}):
        pair = [ours.get(name), others.get(name)]
        if pair[0] != pair[1]:
            alike = itertools.takewhile(
                lambda two: two[0] == two[1], zip(*(each or b"" for each in pair), strict=False)
            )
            start = max(0, sum(1 for _ in alike) - 60)
            found[name] = [each and each[start : start + 200] for each in pair]
    return found


def without_older(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return what a run left, of its checkpoints only the newest."""
    newest = max(name.split("/")[1] for name in files if name.startswith("checkpoints/step-"))
    return {name: content for name, content in files.items() if not re.match(rf"checkpoints/(?!{newest})\w", name)}


def test_runs_that_are_killed_and_stopped_end_as_if_they_never_were(check):
    befell = check("fixed", 5, signal.SIGKILL, signal.SIGINT), check("gradnorm", 7, signal.SIGKILL, signal.SIGTERM)
    assert sum(each.killed for each in befell) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_that_are_killed_often_end_as_if_they_never_were(check, name):
    assert check(name, 28, signal.SIGKILL).killed >= 28


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:5])
def test_runs_that_are_stopped_often_end_as_if_they_never_were(check, name):
    assert check(name, 10, signal.SIGINT, signal.SIGTERM).saved


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[:5])
def test_a_second_signal_ends_a_run_at_once(check, name):
    assert check(name, 5, signal.SIGINT, signal.SIGTERM, twice=True).at_once


@pytest.mark.slow
@pytest.mark.parametrize("name", ["training.precision=float16", "encoder=tabular", *ARCHITECTURES, *STRATEGIES])
def test_runs_of_every_component_that_are_killed_end_as_if_they_never_were(check, name):
    assert check(name, 2, signal.SIGKILL).killed >= 2


@pytest.mark.slow
def test_runs_whose_workers_are_spawned_end_as_if_nothing_befell_them(check):
    assert check("moco", 6, signal.SIGKILL, signal.SIGINT).killed
