"""A small configuration of two sound tasks in a folder of its own, and a way to run a command in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mtlkit.cli import main

RUN = """\
run: {name: first, dir: runs}
tasks: [colour, price]
encoder: {layers: [4]}
training: {steps: 4, steps_per_epoch: 2, device: cpu, threads: 1, log_every: 1}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, forget) -> Path:
    """A folder that is the current one, with a small run.yaml in it."""
    path = tmp_path / "work"
    path.mkdir()
    (path / "run.yaml").write_text(RUN, encoding="utf-8")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def mtlkit(folder) -> Callable[..., Result]:
    """Return a function that runs a command in that folder, in this process."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="mtlkit")

    return run


@pytest.fixture
def answer(mtlkit) -> Callable[..., Any]:
    """Return a function that gives what a command prints with --json."""

    def run(*arguments: str) -> Any:
        done = mtlkit(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


@pytest.fixture
def refused(mtlkit) -> Callable[..., str]:
    """Return a function that gives how a command is refused: what it prints to stderr, with no traceback."""

    def run(*arguments: str, code: int = 3) -> str:
        done = mtlkit(*arguments)
        assert done.exit_code == code, done.output
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    return run
