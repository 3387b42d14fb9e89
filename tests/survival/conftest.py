"""Runs that take little, a forge that starts them again and again, and what must not depend on what befell them."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mtlkit.cli import main

HERE = Path(__file__).parent
PLUGIN = HERE.parent / "fixtures" / "acme_chance.py"
EVENTS_OF_A_RUN = 50  # about so many are told of
OPERATIONS_OF_A_RUN = 250  # and so many files opened, renamed, removed
OPERATIONS_OF_A_START = 25  # of which so many before the first step

# Each saves before every pass over its rows has ended, evaluates at other steps than it saves at, and lacks labels.
BASE: dict[str, Any] = {
    "run": {"name": "run", "dir": "runs", "seed": 3},
    "encoder": {"name": "mlp", "layers": [8, 8], "dropout": 0.2},
    "optimizer": {"name": "adamw", "lr": 0.02},
    "training": {"steps": 17, "steps_per_epoch": 1, "batch_size": 12, "log_every": 1, "threads": 1, "device": "cpu"},
    "evaluation": {"every": 4, "batch_size": 16},
    "checkpoints": {"every": 3},
    "loading": {"workers": 0},
    "hooks": ["herald"],
    "plugins": {"files": [str(PLUGIN)]},
}


def task(name: str, kind: str = "columns", rows: int = 60, seed: int = 0, *, chance: bool = False, **given: Any) -> Any:
    """Return a task as a configuration names it."""
    options = {"kind": kind, "rows": rows, "seed": seed, "chance": chance}
    return {"name": name, "label": f"{name}-{kind}-{seed}", "options": options, **given}


RUNS: dict[str, dict[str, Any]] = {
    # One source in memory, drawn by class; momenta, clipping, two batches a step.
    "fixed": {
        "tasks": [task("sky", sampling="balanced"), task("heat", sampling={"balanced": "sky"})],
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True},
        "schedule": {"name": "cosine", "warmup": 0.2},
        "training": {"accumulate": 2, "clip_norm": 1.0},
        "checkpoints": {"every": 2, "keep": 3},
    },
    # Three sources of which each pass draws one, one of them read one by one by a worker, another by two.
    "uncertainty": {
        "tasks": [task("sky", "stream", 50, 1), task("heat", "random", 90, 2), task("heat", "columns", 40, 3)],
        "schedule": {"name": "linear", "warmup": 0.1},
        "mixing": {"name": "temperature", "temperature": 2.0},
        "loading": {"workers": 2, "start": "fork"},
    },
    # Losses by chance, gradients that are compared, rows read when they are drawn.
    "gradnorm": {
        "tasks": [task("sky", "rows", chance=True), task("heat", "rows"), task("heat", "stream", 50, 1, chance=True)],
        "schedule": {"name": "cosine"},
        "diagnostics": {"every": 2},
        "training": {"accumulate": 2},
        "loading": {"memory": "never", "workers": 0},
        "hooks": [{"name": "herald", "fails": True}],
    },
    # A strategy that draws at random.
    "sdmgrad": {
        "tasks": [task("sky", chance=True), task("heat"), task("heat", "random", 40, 2)],
        "schedule": {"name": "step", "milestones": [0.5]},
        "loading": {"workers": 1, "start": "fork"},
        "checkpoints": {"every": 2, "keep": 1, "best": "heat-columns-0/mse"},
    },
    # A strategy that remembers, and an encoder that is thawed by and by.
    "famo": {
        "transfer": {"unfreeze": {"every": 6}},
        "tasks": [task("sky", chance=True), task("heat", "stream", 50, 1)],
        "schedule": {"name": "cosine", "warmup": 0.1},
        "training": {"accumulate": 2},
    },
    "dwa": {
        "tasks": [task("sky"), task("heat"), task("heat", "rows", 50, 1)],
        "training": {"steps_per_epoch": 2, "steps": 18},
        "checkpoints": {"every": 1},
        "mixing": "proportional",
        "schedule": {"name": "linear"},
    },
    "excess-mtl": {
        "tasks": [task("sky"), task("heat"), task("heat", "columns", 50, 1)],
        "schedule": {"name": "cosine", "warmup": 0.3},
        "checkpoints": {"every": 1, "best": "last"},
    },
    "auto-lambda": {
        "tasks": [task("sky", "random"), task("heat", "columns", 50, 1)],
        "schedule": {"name": "cosine"},
    },
    # A worker that imports everything anew, which takes seconds, and a plugin that keeps files of its own in the run.
    "moco": {
        "hooks": ["herald", "tensorboard"],
        "tasks": [task("sky", "random"), task("heat")],
        "loading": {"workers": 1, "start": "spawn"},
        "schedule": {"name": "cosine"},
    },
}


# For whatever component: its state is all that differs.
ANY: dict[str, Any] = {
    "tasks": [task("sky", chance=True), task("heat"), task("heat", "rows", 50, 1)],
    "schedule": {"name": "cosine", "warmup": 0.2},
}


def configuration(name: str) -> dict[str, Any]:
    """Return that of a run, which is called by its strategy, or as in "architecture=mmoe"."""
    section, _, component = name.rpartition("=")
    given = {**ANY, section: component} if section else {"strategy": name, **RUNS[name]}
    if section == "training.precision":
        given = {**ANY, "training": {"precision": component}}
    parts = ("training", "evaluation", "checkpoints", "loading")
    return {**BASE, **given, **{part: {**BASE[part], **given.get(part, {})} for part in parts}}


@dataclass(frozen=True)
class Strike:
    """When a run is struck, and by which signals.

    Attributes:
        after: Seconds since its process began.
        event: Or which event its hooks hear of.
        operation: Or before which operation on a file of the run.
        signals: The signals; more than one only after some seconds.
        pauses: The seconds from each to the next.
    """

    after: float | None = None
    event: int | None = None
    operation: int | None = None
    signals: Sequence[int] = ()
    pauses: Sequence[float] = ()


@dataclass(frozen=True)
class Ended:
    """How a start of a run ended.

    Attributes:
        exit_code: As of subprocess: negative for a signal that it died of.
        began: When it began, in seconds of a clock that all processes share.
        struck: When it was struck, where that was after some seconds and it had not ended before.
        ended: When it ended.
        output: What it printed.
    """

    exit_code: int
    began: float
    struck: float | None
    ended: float
    output: str


@dataclass
class Forge:
    """Starts runs, each in a process of its own that is forked from one that has imported everything."""

    process: subprocess.Popen[str]
    starts: int = field(default=0)

    def start(
        self, folder: Path, strike: Strike = Strike(), *, log: Path | None = None, modules: Path | None = None
    ) -> Ended:
        """Start the run of a folder, or go on with it in one way or the other, and return how it ended.

        Args:
            folder: The folder.
            strike: What befalls it.
            log: Where its hooks write what they hear of.
            modules: Where it writes which modules it has imported, for those after it to have them.
        """
        self.starts += 1
        output = folder / f"output-{self.starts}.txt"
        environment = {"ACME_LOG": str(log)} if log else {}
        if strike.event:
            environment |= {"ACME_STRIKE_AT": str(strike.event), "ACME_STRIKE_BY": str(int(strike.signals[0]))}
        arguments = ["train", "run.json", "--resume"]
        if self.starts % 2 and (folder / "runs" / "run").exists():  # it is a run from when it is there
            arguments = ["resume", "runs/run", "--plugin", str(PLUGIN)]
        request = {
            "folder": str(folder),
            "arguments": arguments,
            "output": str(output),
            "environment": environment,
            "after": strike.after,
            "operation": strike.operation,
            "modules": modules and str(modules),
            "signals": [int(each) for each in strike.signals],
            "pauses": list(strike.pauses),
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return Ended(**answer, output=output.read_text(encoding="utf-8") if output.exists() else "")


@pytest.fixture(scope="session")
def forge(tmp_path_factory) -> Iterator[Forge]:
    """What starts runs, when it has run one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "forge.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    folder = tmp_path_factory.mktemp("forge")
    (folder / "run.json").write_text(json.dumps(configuration("fixed")), encoding="utf-8")
    with process:
        forge = Forge(process)
        first = forge.start(folder, modules=folder / "modules.txt")
        assert first.exit_code == 0, first.output
        yield forge
        process.stdin.close()


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A folder in memory where there can be one: a killed process loses nothing that it wrote, on the disk or not."""
    memory = Path("/dev/shm")  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="mtlkit-survival-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def prepare(disk):
    """Return a function that makes a folder with the configuration of a run, by the name of its strategy."""

    def prepare(name: str, called: str) -> Path:
        folder = disk / called
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps(configuration(name)), encoding="utf-8")
        return folder

    return prepare


@dataclass(frozen=True)
class Whole:
    """A run that nothing befell: what it left, and how many seconds it took."""

    left: dict[str, bytes]
    seconds: float


@pytest.fixture
def whole(prepare, monkeypatch):
    """Return a function that runs one in this process, which hashes otherwise and has other generators."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the folder of the plugin is added

    def run(name: str) -> Whole:
        importlib.import_module("mtlkit.app")  # which is not timed
        folder = prepare(name, f"{name}-whole")
        monkeypatch.chdir(folder)
        began = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # as anybody's process has it
            result = CliRunner().invoke(main, ["train", "run.json"], prog_name="mtlkit")
        assert result.exit_code == 0, result.output
        return Whole(left(folder), time.monotonic() - began)

    yield run
    sys.modules.pop(PLUGIN.stem, None)


def left(folder: Path) -> dict[str, bytes]:
    """Return every file of a run but those of times, by its path in the run's folder, so that nothing else is there."""
    run = folder / "runs" / "run"
    every = [path for path in sorted(run.rglob("*")) if not path.is_relative_to(run / "tensorboard")]
    paths = {f"{path.relative_to(run)}{'/' * path.is_dir()}": path for path in every}
    del paths["lock.json"]  # which process had the run, and since when
    paths.pop("history.jsonl", None)  # when it went on
    times = [json.loads(line) for line in paths.pop("timings.jsonl").read_bytes().splitlines()]
    assert [each["step"] for each in times] == list(range(1, len(times) + 1))
    return {name: b"" if path.is_dir() else path.read_bytes() for name, path in paths.items()}


@pytest.fixture(name="left")
def fixture_left():
    """Return what returns every file of a run."""
    return left


@pytest.fixture
def strikes():
    """Return a function that yields random moments for runs that take some seconds: of time, of events, of files."""

    def strikes(seed: int, seconds: float, *signals: int) -> Iterator[Strike]:
        drawn = random.Random(seed)  # noqa: S311
        while True:
            for number in signals:
                yield Strike(after=drawn.uniform(0, seconds), signals=[number])
                yield Strike(event=drawn.randint(1, EVENTS_OF_A_RUN), signals=[number])
                yield Strike(operation=drawn.randint(1, OPERATIONS_OF_A_RUN), signals=[number])
                yield Strike(operation=drawn.randint(1, OPERATIONS_OF_A_START), signals=[number])

    return strikes
