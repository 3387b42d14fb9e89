"""What every attack has: a small run to forge, a canary, and the command line with a limit on time and on memory.

The command line runs in a process of its own, forked for each call from one that has imported mtlkit already: an
attack that ends the process, waits without end or takes all memory is seen from outside, and costs no import.
"""

from __future__ import annotations

import json
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mtlkit
from mtlkit.engine.events import CheckpointWritten
from mtlkit.engine.sealing import sealed_yaml
from mtlkit.errors import MtlkitError

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
NEWEST = "step-000006"
SECONDS = 60
MEMORY = 1_500_000_000
"""How many bytes of address space an attacked command may take beyond what it has when it starts."""

_FORKS = """
import json, os, resource, sys, traceback, warnings
import torch
import mtlkit.app, mtlkit.cli

def run(job):
    os.chdir(job["folder"])
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if job["memory"] else 0
    if taken:
        resource.setrlimit(resource.RLIMIT_AS, (taken + job["memory"], taken + job["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (job["seconds"], job["seconds"]))
    mtlkit.cli.main(job["arguments"], prog_name="mtlkit")

mtlkit.app.evaluate(sys.argv[1])  # imports what else is imported when it is first needed

for line in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        try:
            run(json.loads(line))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str


@pytest.fixture(scope="session")
def forks(tmp_path_factory, begun) -> Iterator[subprocess.Popen[str]]:
    """A process that runs commands in forks of itself."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(GOLDEN / "tasks.py", site / "golden_tasks.py")
    metadata = site / "golden_tasks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: golden-tasks\nVersion: 1.0\n", encoding="utf-8")
    entries = "[mtlkit.tasks]\nside = golden_tasks:side\nheight = golden_tasks:height\n"
    (metadata / "entry_points.txt").write_text(entries, encoding="utf-8")
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", _FORKS, str(begun / "runs" / "run")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def command(forks, tmp_path) -> Callable[..., Ended]:
    """Return a function that runs ``mtlkit`` in a folder, within so many seconds and so much memory."""

    def run(*arguments: str, folder: Path = tmp_path, memory: int = MEMORY) -> Ended:
        output = tmp_path / "output.txt"
        job = {"arguments": list(map(str, arguments)), "folder": str(folder), "output": str(output)}
        limits = {"memory": memory if sys.platform == "linux" else 0, "seconds": SECONDS}
        forks.stdin.write(json.dumps(job | limits) + "\n")
        forks.stdin.flush()
        code = int(forks.stdout.readline())
        return Ended(code, output.read_text(encoding="utf-8", errors="replace"))

    return run


@pytest.fixture(scope="session")
def registry() -> mtlkit.Registry:
    """The golden tasks beside what is installed."""
    return runpy.run_path(str(GOLDEN / "build.py"))["registry"]()


@pytest.fixture(scope="session")
def begun(tmp_path_factory, registry) -> Path:
    """A run that was ended after step 6 of 8, with checkpoints of steps 4 and 6, in the folder ``runs``."""
    folder = tmp_path_factory.mktemp("begun")

    class Ended(BaseException):
        """The end."""

    def end(event: object) -> None:
        if isinstance(event, CheckpointWritten) and event.step == 6:
            raise Ended

    settings = runpy.run_path(str(GOLDEN / "build.py"))["CONFIG"]
    settings |= {"run": settings["run"] | {"dir": str(folder / "runs")}, "checkpoints": {"every": 1, "keep": 2}}
    with pytest.raises(Ended):
        mtlkit.train(settings, listeners=[end], registry=registry)
    return folder


@pytest.fixture
def run(begun, tmp_path) -> Path:
    """A copy of that run, to forge: it can be evaluated and gone on with."""
    folder = tmp_path / "runs" / "run"
    shutil.copytree(begun / "runs" / "run", folder)
    config = folder / "config.yaml"
    _, _, text = config.read_text(encoding="utf-8").partition("\n")
    (tmp_path / "run.yaml").write_text(text.replace(str(begun), str(tmp_path)), encoding="utf-8")
    config.write_text(sealed_yaml(text.replace(str(begun), str(tmp_path))), encoding="utf-8")
    return folder


@pytest.fixture
def newest(run) -> Path:
    """Its newest checkpoint, without an older one to fall back to."""
    for folder in (run / "checkpoints").iterdir():
        if folder.name != NEWEST:
            shutil.rmtree(folder)
    return run / "checkpoints" / NEWEST


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


@pytest.fixture
def canary(tmp_path) -> Iterator[_Canary]:
    """An object that makes a file when it is unpickled, which no test lets happen."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(_Canary(path)))  # noqa: S301 - made here
    assert path.exists()  # it does sing
    path.unlink()
    yield _Canary(path)
    assert not path.exists()


@pytest.fixture
def assert_refused(command, run, registry) -> Callable[..., None]:
    """Return a function that goes the public ways into a run, and asserts that each names what is wrong."""

    def check(ended: Ended, code: int, *names: str) -> None:
        assert ended.code == code, ended.output
        assert "Traceback" not in ended.output
        assert len(ended.output) < 3000
        for name in names:
            assert name in ended.output

    def refused(*names: str, code: int = 5, ways: tuple[str, ...] = ("evaluate", "resume", "pretrained")) -> None:
        def call() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if "evaluate" in ways:
                    mtlkit.evaluate(run, registry=registry)
                else:
                    mtlkit.train(run.parent.parent / "run.yaml", resume=True, registry=registry)

        if "evaluate" in ways:
            check(command("evaluate", run), code, *names)
        if "resume" in ways:
            check(command("train", "run.yaml", "--resume"), code, *names)
        if "pretrained" in ways:
            check(command("train", "run.yaml", "run.name=other", f"transfer.pretrained={run}"), code, *names)
        with pytest.raises(MtlkitError) as caught:
            call()
        assert caught.value.exit_code == code

    return refused
