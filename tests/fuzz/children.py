"""Children: cases run in forked processes, so that one that crashes, hangs or wants all memory ends itself alone.

A child runs case after case; what it sees of each it writes to a pipe, and from the pipe alone the parent knows. One
that dies, or takes too long over a case, is replaced by another that begins after that case.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["Failure", "failures"]

SECONDS = 30  # of computing for one case
PATIENCE = 300  # seconds that one may take in all, on a machine that has other things to do
GIGABYTES = 3  # above what the process has already

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate",
    "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile",
}  # fmt: skip
_COMMANDS = {"os.exec", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}


@dataclasses.dataclass(frozen=True)
class Failure:
    """A case that did what nothing should.

    Attributes:
        case: Its number.
        what: What it did.
    """

    case: int
    what: str


def failures(cases: Iterable[int], run: Callable[[int], str], *, may_start: bool = False) -> Iterator[Failure]:
    """Run cases, each in a new folder that is the current one, and yield those that failed.

    Args:
        cases: Their numbers.
        run: What tries one, in the child, and returns what was wrong; nothing where all is well.
        may_start: Whether a case may start other programs.
    """
    rest = list(cases)
    while rest:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that forking a process with threads is unsafe
            child = os.fork()
        if child == 0:
            os.close(reader)
            _run_all(rest, run, writer, may_start=may_start)
        os.close(writer)
        done = 0
        told = ""
        try:
            for verdict in _lines(reader):
                done += 1
                if verdict:
                    yield Failure(rest[done - 1], verdict)
        except TimeoutError:
            told = f"took more than {PATIENCE} s"
            os.kill(child, signal.SIGKILL)
        finally:
            os.close(reader)
            _, status = os.waitpid(child, 0)
        if done < len(rest):
            code = os.waitstatus_to_exitcode(status)
            ended = f"computed for more than {SECONDS} s" if code == -signal.SIGXCPU else f"ended with status {code}"
            yield Failure(rest[done], told or ended)
            done += 1
        rest = rest[done:]


def _lines(reader: int) -> Iterator[str]:
    """Yield what a child says of each case, as soon as it does."""
    buffer, deadline = b"", time.monotonic() + PATIENCE
    while True:
        ready, _, _ = select.select([reader], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            return
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            deadline = time.monotonic() + PATIENCE
            yield json.loads(line)


def _run_all(cases: list[int], run: Callable[[int], str], writer: int, *, may_start: bool) -> None:
    """Run cases in this process, and never return."""
    status = 1
    try:
        sys.dont_write_bytecode = True
        warnings.simplefilter("default")  # as for a user; pytest makes errors of them
        folder = Path(tempfile.mkdtemp(prefix="mtlkit-fuzz-"))
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        os.environ["MPLCONFIGDIR"] = str(folder)
        _limit_memory()
        watch = _Watch(folder, may_start=may_start)
        sys.addaudithook(watch)
        for case in cases:
            verdict = _run_one(case, run, folder, watch)
            os.write(writer, json.dumps(verdict).encode() + b"\n")
        watch.is_on = False
        shutil.rmtree(folder, ignore_errors=True)
        status = 0
    except BaseException:  # noqa: BLE001 - a child of a test must not come back as a second pytest
        traceback.print_exc()
    finally:
        os._exit(status)


def _run_one(case: int, run: Callable[[int], str], folder: Path, watch: _Watch) -> str:
    work = folder / "around" / "work"
    shutil.rmtree(folder / "around", ignore_errors=True)
    work.mkdir(parents=True)
    os.chdir(work)
    watch.seen.clear()
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime) + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))  # beyond which SIGXCPU ends the process
    watch.is_on = True
    try:
        verdict = run(case)
    except BaseException:  # noqa: BLE001 - whatever it is, it is what the case did
        verdict = traceback.format_exc()
    watch.is_on = False
    return verdict or "; ".join(watch.seen)


def _limit_memory() -> None:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    have = int(status["VmSize"].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (have + GIGABYTES * 10**9,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Watch:
    """Hears of everything that is written, removed or started, and keeps what had to be left alone.

    Args:
        folder: Where files may be made and removed.
        may_start: Whether programs may be started.
    """

    def __init__(self, folder: Path, *, may_start: bool) -> None:
        self.folder = os.path.realpath(folder)
        self.may_start = may_start
        self.seen: list[str] = []
        self.is_on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in _COMMANDS and not self.may_start and arguments[0] != "uname":  # which platform.platform() asks
            self.seen.append(f"started a program: {event} {arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and isinstance(path, str | bytes | os.PathLike):
                self._look(f"opened to write ({mode or flags})", path)
        elif event in _CHANGES:
            for path in arguments[1:2] if event == "shutil.copyfile" else arguments[:2]:
                if isinstance(path, str | bytes | os.PathLike):
                    self._look(event, path)

    def _look(self, what: str, path: Any) -> None:
        with contextlib.suppress(ValueError):  # no file is called that
            real = os.path.realpath(os.fsdecode(path))
            if not real.startswith(self.folder + os.sep) and real != self.folder and not real.startswith("/dev/"):
                self.seen.append(f"{what}: {real!r}")
                raise PermissionError(f"{real} has to be left alone")
