"""Isolated: what loading a component does in a process that has loaded no other."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mtlkit.testing.checks import Nonconformance, require
from mtlkit.testing.child import PRELOADED, Observation, Request
from mtlkit.testing.subject import Subject

__all__ = ["LIGHT", "changes_of_its_own", "observed", "require_torch_unimported"]

LIMIT_S = 600.0  # for loading a task's rows, too
LIGHT = {"plugins", "commands"}
"""The kinds that are loaded on the command line, which does without torch."""


def observed(subject: Subject) -> Observation:
    """Return what loading a component does; it is loaded once, for all checks.

    For a class that cannot be imported elsewhere, such as one that is defined in a function, nothing is observed.
    """
    if "observed" not in subject.kept:
        subject.kept["observed"] = _observe(subject)
    seen: Observation = subject.kept["observed"]
    return seen


def changes_of_its_own(subject: Subject) -> list[str]:
    """Return the global settings that a component changes when it is loaded.

    What other packages change when they are imported is not its doing: they are imported before a second look.
    """
    seen = observed(subject)
    if not seen.changed or not seen.imported:
        return seen.changed
    request = _request(subject)
    if request is None:
        return []
    again = _server(subject).ask(replace(request, options=None, first=seen.imported))
    return again.changed


def require_torch_unimported(subject: Subject) -> None:
    """Require that loading a component does not import torch; the module of a class that was given may be a test's."""
    require(
        subject.record is None or not observed(subject).torch,
        f"Loading {subject.name} imports torch",
        "It is loaded on the command line, where that takes seconds: import torch, and what brings it in, inside the "
        "functions that need it.",
    )


def _observe(subject: Subject) -> Observation:
    request = _request(subject)
    return Observation(found=False) if request is None else _server(subject).ask(request)


def _request(subject: Subject) -> Request | None:
    if subject.record is not None:
        kind, name = subject.kind, subject.record.qualified
    else:
        kind, name = "", f"{subject.component.__module__}:{subject.component.__qualname__}"
        if name.startswith("__main__:") or "<locals>" in name:
            return None
    return Request(
        kind,
        name,
        options=_plain_options(subject) if subject.kind == "tasks" else None,
        path=[str(each) for each in sys.path],
        environment=dict(os.environ),
        folder=str(Path.cwd()),
    )


def _plain_options(subject: Subject) -> Mapping[str, Any] | None:
    try:
        return subject.signature.plain(subject.checked_options())
    except Nonconformance:
        return None  # which the checks of the options tell of


class _Server:
    """A process that answers requests; it is started when it is first asked, and again where it has ended.

    Args:
        preloaded: Which of :data:`~mtlkit.testing.child.PRELOADED` it imports first.
    """

    def __init__(self, preloaded: str) -> None:
        self._preloaded = preloaded
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Request) -> Observation:
        """Return what a component did there."""
        process = self._process
        if process is None or process.poll() is not None:
            self.close()
            process = self._process = self._start()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "answer.json")
            try:
                end = _exchange(process, json.dumps([asdict(request), str(path)]))
            except BaseException:  # what it answers now would be taken for the answer to another request
                self.close()
                raise
            if end is None:
                self.close()
            elif not end:  # the process has ended, with this answer or without
                end = str(process.wait())
            if path.exists():
                return Observation(**json.loads(path.read_text(encoding="utf-8")))
        if end is None:
            return Observation(error=f"it took longer than {LIMIT_S:g} seconds")
        return Observation(error=f"the process ended with the exit status {end}")

    def close(self) -> None:
        """End the process, and all that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        # Another one than here, so that data which depend on the order of a set are found out.
        environment["PYTHONHASHSEED"] = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        path = [str(each) for each in sys.path]
        program = f"import sys; sys.path[:] = {path!r}; from mtlkit.testing.child import main; main()"
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(  # noqa: S603 - it is this program
                [sys.executable, "-c", program, self._preloaded],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            if _exchange(process) != "ready":
                process.kill()
                process.communicate()
                errors.seek(0)
                raise RuntimeError(f"the process that loads components does not start: {errors.read().decode()}")
        return process


def _exchange(process: subprocess.Popen[bytes], line: str = "") -> str | None:
    """Write a line to a process, if there is one, and return the line that it answers; None if there is none in time.

    A process that has ended answers an empty line.
    """
    if process.stdin is None or process.stdout is None:
        raise ValueError("a process with pipes is needed")
    if line:
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
    return process.stdout.readline().decode().strip() if ready else None


_SERVERS = {name: _Server(name) for name in PRELOADED}
for each in _SERVERS.values():
    atexit.register(each.close)


def _server(subject: Subject) -> _Server:
    return _SERVERS["light" if subject.kind in LIGHT else "torch"]
