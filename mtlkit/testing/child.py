"""The other process: it loads a component that no one has loaded there before, and tells what that did.

It imports torch and mtlkit once. Each component is then loaded in a fork of its own, where it finds nothing else of
what was tested; where forks are not safe, the process answers one request and ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from mtlkit.options import signature_of
from mtlkit.registry import Registry
from mtlkit.testing.settings import changes, snapshot
from mtlkit.yamlfile import Document

__all__ = ["PRELOADED", "Observation", "Request", "main"]

PRELOADED = {
    "torch": ("torch", "torchmetrics", "mtlkit.app", "mtlkit.heads", "mtlkit.strategies", "mtlkit.testing.rows"),
    "light": ("mtlkit.cli", "mtlkit.engine.events"),
}
"""What is imported before any component, and counts as nothing that it does."""

_FORKS = sys.platform == "linux"  # elsewhere, a fork of a process that has loaded so much may crash
_NETWORK = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyaddr",
    "socket.gethostbyname",
    "socket.sendmsg",
    "socket.sendto",
}


@dataclass(frozen=True)
class Request:
    """What is to be loaded.

    Attributes:
        kind: The kind of a component that is registered; empty for a class.
        name: Its qualified name; of a class, ``module:qualname``.
        options: If its rows are to be loaded too, the options of the task.
        first: The modules to import before the global settings are looked at.
        path: ``sys.path``.
        environment: The environment variables.
        folder: The working directory.
    """

    kind: str
    name: str
    options: Mapping[str, Any] | None = None
    first: Sequence[str] = ()
    path: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "."


@dataclass
class Observation:
    """What loading a component did.

    Attributes:
        found: Whether its module can be imported there at all; a class of a test may not be.
        error: What loading it raised.
        seconds: How long that took.
        printed: What was written to standard output and standard error.
        network: What would have used the network; it was refused.
        changed: The global settings that changed.
        imported: The modules that were imported, but for those of the component's own package and mtlkit's.
        torch: Whether torch is loaded now.
        digests: The digests of a task's rows, where they were asked for.
        rows_error: What loading these raised.
    """

    found: bool = True
    error: str = ""
    seconds: float = 0.0
    printed: str = ""
    network: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    torch: bool = False
    digests: dict[str, str] | None = None
    rows_error: str = ""


def main() -> None:
    """Answer requests, each a line of JSON on standard input: ``[request, the file to answer in]``."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a component prints is no answer
    for name in PRELOADED[sys.argv[1]]:
        importlib.import_module(name)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        given, path = json.loads(line)
        if not _FORKS:
            _answer(Request(**given), Path(path))
            break
        process = os.fork()
        if not process:
            answers.close()
            _answer(Request(**given), Path(path))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(status, file=answers, flush=True)
    answers.close()


def _answer(request: Request, path: Path) -> None:
    """Write an observation to a file."""
    try:
        os.chdir(request.folder)
        sys.path[:] = request.path
        importlib.invalidate_caches()
        for name in os.environ.keys() - request.environment.keys() - {"PYTHONHASHSEED"}:
            del os.environ[name]
        os.environ.update({n: v for n, v in request.environment.items() if n != "PYTHONHASHSEED"})
        with tempfile.TemporaryFile() as output:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            observation = _observe(request, output)
    except BaseException as error:  # noqa: BLE001 - there is no one else here to tell
        observation = Observation(error=f"{type(error).__name__}: {error}")
    path.write_text(json.dumps(asdict(observation)), encoding="utf-8")


def _observe(request: Request, output: BinaryIO) -> Observation:
    warnings.showwarning = _pass_over  # Python prints warnings, and it is not the component that does
    for name in request.first:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    seen = Observation()
    network = _Network(seen.network)
    sys.addaudithook(network)
    modules, before = set(sys.modules), snapshot()
    network.is_refused = True
    started = time.perf_counter()
    try:
        component = _load(request)
    except _NotThere:
        seen.found = False
        return seen
    except BaseException as error:  # noqa: BLE001 - also one that would end the process
        component, seen.error = None, f"{type(error).__name__}: {error}"
    seen.seconds = time.perf_counter() - started
    network.is_refused = False
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(Exception):  # it may have been replaced by anything
            stream.flush()  # type: ignore[union-attr]
    output.seek(0)
    seen.printed = output.read().decode(errors="replace")
    seen.changed = changes(before, snapshot())
    own = {"mtlkit", _module(request).partition(".")[0]}
    seen.imported = [name for name in sys.modules if name not in modules and name.partition(".")[0] not in own]
    seen.torch = "torch" in sys.modules
    if request.options is not None and component is not None:
        _load_rows(component, request.options, seen)
    return seen


class _NotThere(Exception):  # noqa: N818 - it is an answer
    """A class cannot be imported from here."""


def _load(request: Request) -> Any:
    if request.kind:
        registry = Registry.discover()
        return registry.load(registry.find(request.kind, request.name))
    module, _, qualname = request.name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in qualname.split("."):
            found = getattr(found, name)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise _NotThere from error
        raise
    except AttributeError as error:
        raise _NotThere from error
    return found


def _module(request: Request) -> str:
    if not request.kind:
        return request.name.partition(":")[0]
    return Registry.discover().find(request.kind, request.name).value.partition(":")[0]


def _load_rows(component: Any, options: Mapping[str, Any], seen: Observation) -> None:
    from mtlkit.testing.rows import digests  # noqa: PLC0415 - torch with it, which the command line does without

    try:
        checked = signature_of(component).check(options, Document.from_data({}), ())
        seen.digests = digests(component(**checked).source().splits())
    except BaseException as error:  # noqa: BLE001 - a task may raise whatever it likes
        seen.rows_error = f"{type(error).__name__}: {error}"


def _pass_over(*_arguments: object, **_options: object) -> None:
    """Show no warning."""


class _Network:
    """An audit hook (PEP 578) that refuses the network, and remembers who asked."""

    def __init__(self, attempts: list[str]) -> None:
        self.attempts = attempts
        self.is_refused = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_refused or event not in _NETWORK:
            return
        if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
            socket, *rest = arguments
            if getattr(socket.family, "name", "") == "AF_UNIX":
                return  # of this machine
            arguments = tuple(rest)
        self.attempts.append(f"{event}({', '.join(map(repr, arguments[:2]))})")
        raise ConnectionRefusedError(f"no network: {self.attempts[-1]}")
