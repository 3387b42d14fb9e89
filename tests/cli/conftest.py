"""A small configuration in a folder of its own, and a way to run a command in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mtlkit.cli import main

RUN = """\
run: {name: first, dir: runs}
tasks:
  - name: digit
    weight: 1.0
  - name: parity
encoder:
  name: mlp
  layers: [8]
strategy: {name: fixed}
optimizer: {name: adamw, lr: 0.01}
training: {steps: 3, device: cpu, threads: 1}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder that is the current one, with a small run.yaml in it."""
    path = tmp_path / "work"
    path.mkdir()
    (path / "run.yaml").write_text(RUN, encoding="utf-8")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def mtlkit(folder):
    """Return a function that runs a command in that folder, in this process."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, prog_name="mtlkit")

    return run
