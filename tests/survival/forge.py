"""A process that has imported everything, and forks one that runs a command line for each request that it reads.

So each start of a run costs what the run costs, and not the seconds that importing torch takes. It has one thread, so
that forking is safe. A request is a line of JSON on its standard input, and so is each answer on its standard output.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from mtlkit.cli import main

FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
PATIENCE_S = 120.0  # for one start of a run


def serve() -> None:
    """Answer every request."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def answer(request: dict) -> dict:
    """Start a run, strike it by signals after some seconds if that is asked for, and tell how it ended."""
    began = time.monotonic()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])  # until it can answer to them
    child = os.fork()
    if not child:
        os.setpgid(0, 0)  # a group of its own, as a shell would give it
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            code = start(request)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT  # what a shell makes of the end that Python comes to
        if request["modules"]:
            Path(request["modules"]).write_text("\n".join(sys.modules), encoding="utf-8")
        os._exit(code)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    struck = None
    status = wait(child, request["after"] if request["signals"] and request["after"] is not None else PATIENCE_S)
    if status is None and request["after"] is not None:
        struck = time.monotonic()
        for pause, number in zip([0, *request["pauses"]], request["signals"], strict=True):
            time.sleep(pause)
            with contextlib.suppress(ProcessLookupError):
                strike(child, number)
        status = wait(child, PATIENCE_S)
    if status is None:
        os.kill(child, signal.SIGKILL)
        wait(child, PATIENCE_S)
    if request["modules"]:
        import_all(Path(request["modules"]).read_text(encoding="utf-8").splitlines())
    return {
        "exit_code": None if status is None else os.waitstatus_to_exitcode(status),
        "began": began,
        "struck": struck,
        "ended": time.monotonic(),
    }


def strike(child: int, number: int) -> None:
    """Send a signal to a process; Ctrl-C goes to every process of its group, workers included."""
    (os.killpg if number == signal.SIGINT else os.kill)(child, number)


def import_all(names: list[str]) -> None:
    """Import what a run imported while it ran, so that no later one has to."""
    for name in names:
        if not name.startswith(("__", "acme")):
            with contextlib.suppress(ImportError):  # what is no module, and only looks like one
                importlib.import_module(name)


def wait(child: int, seconds: float) -> int | None:
    """Return how a process ended; None where it has not in so many seconds."""
    until = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if time.monotonic() > until:
            return None
        time.sleep(0.0005)


def start(request: dict) -> int:
    """Run the command line in this process, as if it had just been started, and return its exit code."""
    os.chdir(request["folder"])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for ours, its in ((null, 0), (output, 1), (output, 2)):
        os.dup2(ours, its)
    for each in ("stdin", "stdout", "stderr"):
        setattr(sys, each, os.fdopen({"stdin": 0, "stdout": 1, "stderr": 2}[each], "r" if each == "stdin" else "w"))
    os.environ.update(request["environment"])
    random.seed()  # as any process has its own
    np.random.seed()  # noqa: NPY002
    torch.seed()
    warnings.resetwarnings()
    if request["operation"]:
        strike_at_operation(request["operation"], request["signals"][0], Path(request["folder"]) / "runs")
    try:
        main.main(args=request["arguments"], prog_name="mtlkit")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    else:
        code = 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what Python makes of one while it ends is its own
    threading._shutdown()  # as the interpreter does before it ends
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def strike_at_operation(number: int, by: int, folder: Path) -> None:
    """Send this process a signal just before a file or folder is opened, made, renamed or removed for the n-th time."""
    left = number

    def hear(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in FILE_EVENTS and (_is_within(arguments[0], folder) or _is_in_open_folder(event, arguments)):
            left -= 1
            if not left:
                strike(os.getpid(), by)

    sys.addaudithook(hear)


def _is_within(path: object, folder: Path) -> bool:
    return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(folder)


def _is_in_open_folder(event: str, arguments: tuple) -> bool:
    """Return whether a file is named relative to an open folder, as one that is removed with its folder is."""
    return event in {"os.remove", "os.rmdir"} and arguments[-1] >= 0


if __name__ == "__main__":
    serve()
