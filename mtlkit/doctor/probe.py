"""What runs in a process of the doctor's: it imports and loads one component after another, as it is told.

The process that started it talks to it over a socket: a line of JSON for each step, and a line of JSON that answers.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from mtlkit.errors import PluginError
from mtlkit.hookspecs import ContractWarning
from mtlkit.registry import Record
from mtlkit.registry.describe import at_fault
from mtlkit.registry.files import read_file
from mtlkit.registry.loading import Refused, load, resolve

__all__ = ["CLOSED", "main"]

CLOSED = 121  # the exit status where a plugin closed what this process needs to answer
_SPARE = 30  # seconds beyond the limit, after which a process ends itself if whoever started it no longer can
_LONGEST = 4000  # characters of any text that a plugin wrote
_STREAMS = {1: "stdout", 2: "stderr"}


def main(descriptor: int, seconds: int) -> None:
    """Do as a socket says until it is closed.

    Args:
        descriptor: The socket's file descriptor.
        seconds: How long a step may take, for whoever started this process; it ends itself some time later.
    """
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    answerer = _Answerer()
    channel.sendall(b"{}\n")  # it has started
    for line in channel.makefile("rb"):
        signal.alarm(seconds + _SPARE)
        try:
            answer = answerer.answer(**json.loads(line))
            signal.alarm(0)
            if os.getpid() != answerer.process:
                os._exit(0)  # a copy that the plugin forked, and that came back out of the import
            channel.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            os._exit(CLOSED)


class _Answerer:
    """Takes the steps, and sees what they do beside what they should."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.forks = 0
        self.descriptors = {name: os.dup(descriptor) for descriptor, name in _STREAMS.items()}
        self.streams = {name: getattr(sys, name) for name in _STREAMS.values()}
        os.register_at_fork(after_in_parent=self._count_fork)

    def answer(self, step: str, **what: Any) -> dict[str, Any]:
        """Return what came of one step."""
        self.forks = 0
        answer: dict[str, Any] = {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ContractWarning)
            try:
                answer |= getattr(self, step)(**what)
            except Refused as error:
                answer |= {"reason": _text(error.refusal.reason), "remedy": _text(error.refusal.remedy)}
            except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt is a plugin's own here
                answer["reason"] = _text(f"loading it raised {at_fault(error)}")
        answer |= {"forks": self.forks, "closed": self._restore_streams()}
        answer["warnings"] = [
            {"category": w.category.__name__, "text": _text(w.message), "file": w.filename, "line": w.lineno}
            for w in caught
        ]
        return {"torch": "torch" in sys.modules} | answer

    def import_(self, **record: str) -> dict[str, Any]:
        """Import a component's module, and find in it what the entry point leads to."""
        start = time.perf_counter()
        resolve(Record(**record))
        return {"seconds": time.perf_counter() - start}

    def load(self, **record: str) -> dict[str, Any]:
        """Check what a component's entry point leads to, and ask it for its class."""
        load(Record(**record))
        return {}

    def read(self, file: str) -> dict[str, Any]:
        """Import a file that is a plugin, and find its components."""
        try:
            found = read_file(Path(file))
        except PluginError as error:
            return {"reason": _text(error).rstrip(".")}
        return {"records": [vars(record) for record in found.records]}

    def _count_fork(self) -> None:
        self.forks += 1

    def _restore_streams(self) -> list[str]:
        """Put back what a plugin closed or replaced of stdout and stderr; return which it was."""
        changed = []
        for descriptor, name in _STREAMS.items():
            try:
                same = os.path.sameopenfile(descriptor, self.descriptors[name])
            except OSError:
                same = False
            if not same:
                os.dup2(self.descriptors[name], descriptor)
            stream = getattr(sys, name)
            if stream is not self.streams[name] or stream.closed:
                same = False
                # Not closed here: it stands for good, as what it stands in for did.
                self.streams[name] = os.fdopen(descriptor, "w", buffering=1, closefd=False)
                setattr(sys, name, self.streams[name])
            if not same:
                changed.append(name)
        return changed


def _text(words: object) -> str:
    """Return what a plugin says, or as much of it as there is use for."""
    try:
        return str(words)[:_LONGEST]
    except Exception:  # noqa: BLE001 - a plugin's own object may fail at this
        return ""
