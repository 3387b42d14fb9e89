"""A process in which plugins are loaded, so that none can harm this one: it is told what to do, timed, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtlkit.doctor.probe import CLOSED
from mtlkit.errors import StorageError
from mtlkit.registry import Record

__all__ = ["Answer", "Lost", "Printed", "Process", "Stopping", "line_of"]

_COMMAND = """
import json, sys
descriptor, seconds, path = map(json.loads, sys.argv[1:])
sys.path[:] = path
from mtlkit.doctor.probe import main
main(descriptor, seconds)
"""
_START = 60.0  # seconds for a process to start
_END = 2.0  # seconds for one to end by itself
_POLL = 0.1  # seconds between two looks at whether it is still there
_CRASHES = {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP}
_CRASH = b"Fatal Python error: "  # so begins what Python writes when it crashes
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')
_VERBS = {"import_": "importing it", "load": "loading it", "read": "importing it"}
_LONGEST_HEAD, _LONGEST_TAIL = 2_000, 16_000


class Stopping(Exception):  # noqa: N818 - it is asked for
    """The examination is to stop, so this process is not to go on."""


@dataclass
class Printed:
    """What a plugin wrote to stdout and stderr: how much, and its beginning and end."""

    size: int = 0
    head: bytes = b""
    tail: bytes = b""

    def add(self, chunk: bytes) -> None:
        """Take in more."""
        self.size += len(chunk)
        self.head += chunk[: max(0, _LONGEST_HEAD - len(self.head))]
        self.tail = (self.tail + chunk)[-_LONGEST_TAIL:]

    def cut_crash(self) -> str:
        """Take out what Python itself wrote when it crashed, and return it."""
        before, mark, crash = self.tail.partition(_CRASH)
        if not mark:
            return ""
        self.size -= len(mark) + len(crash)
        self.head, self.tail = self.head[: self.size], before
        return crash.decode(errors="replace")


@dataclass(frozen=True)
class Answer:
    """What came of a step.

    Attributes:
        torch: Whether torch is imported after it.
        forks: How often it forked the process.
        closed: Which of stdout and stderr it closed or replaced.
        warnings: The warnings it issued: category, text, file and line of each.
        printed: What it wrote to stdout and stderr.
        seconds: How long the import took.
        records: The components of a file.
        reason: What went wrong, if anything did; a sentence without its capital and its full stop.
        remedy: What would help; may be empty.
    """

    torch: bool
    forks: int
    closed: Sequence[str]
    warnings: Sequence[dict[str, Any]]
    printed: Printed
    seconds: float | None = None
    records: Sequence[dict[str, str]] = ()
    reason: str = ""
    remedy: str = ""


class Lost(Exception):  # noqa: N818 - it is caught, and told of as what it says of the plugin
    """A process ended, or had to be ended, before it answered.

    Attributes:
        reason: What became of it; a sentence without its capital and its full stop.
        remedy: What would help; sentences.
        printed: What it wrote until then.
        frames: The calls that it was in, the innermost first: file and line of each.
    """

    def __init__(self, reason: str, remedy: str, printed: Printed) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.printed = reason, remedy, printed
        crash = printed.cut_crash()
        _, current, rest = crash.partition("Current thread")
        self.frames = [(name, int(line)) for name, line in _FRAME.findall(rest if current else crash)]


class Process:
    """A Python process, in a process group of its own, that loads components when asked.

    Args:
        path: Its ``sys.path``.
        timeout: The seconds that one component may take.
        stopping: Set when the examination is to stop.

    Raises:
        Lost: If it does not start.
        StorageError: If the system allows no more processes.
        Stopping: If the examination is to stop.
    """

    def __init__(self, path: Sequence[str], timeout: float, stopping: threading.Event) -> None:
        self.has_torch = False
        self._timeout = timeout
        self._stopping = stopping
        self._received = b""
        self._printed = Printed()
        self._channel, theirs = socket.socketpair()
        # -u: what is printed arrives, whatever ends the process. faulthandler: a crash says where it was.
        command = [sys.executable, "-P", "-u", "-X", "faulthandler", "-c", _COMMAND]
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - this Python, and a file of this package
                    [
                        *command,
                        *map(
                            json.dumps,
                            (theirs.fileno(), int(timeout) + 1, list(map(str, path))),
                        ),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
        except OSError as error:
            self._channel.close()
            raise StorageError(f"A process to load plugins in could not be started: {error.strerror}.") from error
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe, as asked for above
        self._output = self._process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._selector.register(self._output, selectors.EVENT_READ)
        try:
            self._answer(time.monotonic() + _START, _START, "starting Python")
        except BaseException:
            self.close(at_once=True)
            raise

    def ask(self, step: str, deadline: float, **what: Any) -> Answer:
        """Have it take one step.

        Args:
            step: ``import_`` or ``load``, of a component; or ``read``, of a file.
            deadline: Until when, by :func:`time.monotonic`.
            **what: The component or the file.

        Raises:
            Lost: If it does not answer; it is to be closed then.
            Stopping: If the examination is to stop.
        """
        self._printed = Printed()
        self._send({"step": step, **what})
        answer = self._answer(deadline, self._timeout, _VERBS[step])
        self.has_torch = bool(answer["torch"])
        return Answer(**answer, printed=self._printed)

    def close(self, *, at_once: bool = False) -> None:
        """End it, and whatever it has started."""
        self._channel.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END)
        # Its group, so that what a plugin has started goes with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        self._output.close()

    # --- parts ---

    def _send(self, message: object) -> None:
        # One that is gone is noticed when its answer is waited for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _answer(self, deadline: float, limit: float, verb: str) -> dict[str, Any]:
        """Wait for an answer, and take in what is printed meanwhile."""
        while b"\n" not in self._received:
            if self._stopping.is_set():
                raise Stopping
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._hung(verb, limit)
            ended = self._process.poll() is not None
            ready = [key.fileobj for key, _ in self._selector.select(0 if ended else min(left, _POLL))]
            if self._output in ready:
                self._hear()
            if self._channel in ready:
                chunk = self._receive()
                if not chunk:
                    raise self._ended(verb)
                self._received += chunk
            elif ended:
                raise self._ended(verb)
        self._drain()
        line, _, self._received = self._received.partition(b"\n")
        try:
            return dict(json.loads(line))
        except ValueError:
            raise Lost(f"{verb} wrote to a file descriptor that is not its own", "", self._printed) from None

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(65_536)
        except ConnectionResetError:
            return b""

    def _hear(self) -> bool:
        """Take in what was printed; return whether there may be more."""
        chunk = os.read(self._output.fileno(), 65_536)
        if not chunk:
            self._selector.unregister(self._output)
        self._printed.add(chunk)
        return bool(chunk)

    def _drain(self, seconds: float = 0.0) -> None:
        """Take in what has been printed; wait some seconds for the process to end, which may have more to say."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            if self._output in self._selector.get_map():
                selector.register(self._output, selectors.EVENT_READ)
            while time.monotonic() < deadline + _END:  # for something it left behind may print for ever
                ended = self._process.poll() is not None or time.monotonic() >= deadline
                if selector.select(0 if ended else _POLL):
                    if not self._hear():
                        selector.unregister(self._output)
                elif ended:
                    return

    def _ended(self, verb: str) -> Lost:
        self._drain(_END)
        code = self._process.poll()
        if code is None or code == CLOSED:
            return Lost(f"{verb} closed file descriptors that are not its own", "", self._printed)
        if code >= 0:
            remedy = "Where a plugin cannot go on it raises an exception, and leaves the process alone."
            return Lost(f"{verb} ended the process with exit status {code}", remedy, self._printed)
        what = f"{_signal_name(-code)} ({(signal.strsignal(-code) or 'unknown').lower()})"
        if -code not in _CRASHES:
            remedy = "It ended itself, or was ended from outside, as for want of memory."
            return Lost(f"{verb} ended the process by {what}", remedy, self._printed)
        remedy = "Such a crash is in compiled code: reinstall or update what it uses, or tell its authors."
        return Lost(f"{verb} crashed Python by {what}", remedy, self._printed)

    def _hung(self, verb: str, limit: float) -> Lost:
        self._process.send_signal(signal.SIGABRT)  # so that it says where it was
        self._drain(_END)
        remedy = (
            "What takes long, or waits, belongs in the functions that need it and not at the top of a module; "
            "--timeout gives it more seconds."
        )
        return Lost(f"{verb} took longer than {limit:g} s, and was ended", remedy, self._printed)


def line_of(frames: Iterable[tuple[str, int]], record: Record) -> str:
    """Return file:line of the first call that is in a component's own package; empty if none is."""
    top = record.value.partition(":")[0].partition(".")[0]
    for name, line in frames:
        parts = Path(name).with_suffix("").parts
        if top in parts:
            inside = parts[len(parts) - 1 - parts[::-1].index(top) :]
            if "site-packages" not in inside:  # a project's folder may hold a whole environment
                return f"{name}:{line}"
    return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
