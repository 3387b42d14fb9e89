"""The README's code runs, its plugin installs and trains, its tree and its commands are those of the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


PLUGIN, *LEVELS = blocks("python")
(PYPROJECT,) = blocks("toml")


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines_of_code(block: str) -> int:
    return sum(bool(line.strip()) for line in block.splitlines())


def test_the_plugin_has_25_lines():
    assert lines_of_code(PLUGIN) <= 25


@pytest.mark.parametrize("level", range(3))
def test_a_level_has_10_lines_and_runs(level, tmp_path):
    block = LEVELS[level]
    assert lines_of_code(block) <= 10
    run(sys.executable, "-W", "error", "-c", block, cwd=tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Install the README's plugin with pip into a folder of its own, offline."""
    project, target = tmp_path_factory.mktemp("acme-wine"), tmp_path_factory.mktemp("site")
    (project / "acme_wine.py").write_text(PLUGIN, encoding="utf-8")
    (project / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--target", target, project, cwd=project)
    return target


def test_the_plugin_is_listed_and_trains(installed, tmp_path):
    mtlkit = (sys.executable, "-W", "error", "-m", "mtlkit")
    listed = json.loads(run(*mtlkit, "list", "tasks", "--json", cwd=tmp_path, path=installed))
    wine = next(record for record in listed if record["name"] == "wine")
    assert wine["distribution"] == "acme-wine"
    assert wine["summary"] == "Which of three cultivars a wine was made from."

    run(*mtlkit, "init", "wine.yaml", "--task", "wine", cwd=tmp_path, path=installed)
    overrides = ("strategy.name=uncertainty", "training.epochs=20")
    trained = json.loads(run(*mtlkit, "train", "wine.yaml", *overrides, "--json", cwd=tmp_path, path=installed))
    assert trained["test"]["wine"]["metrics"]["accuracy"] > 0.9
    environment = json.loads((tmp_path / trained["folder"] / "environment.json").read_text(encoding="utf-8"))
    assert {"kind": "tasks", "name": "wine", "distribution": "acme-wine", "version": "1.0"}.items() <= next(
        plugin for plugin in environment["plugins"] if plugin["name"] == "wine"
    ).items()


def test_the_tree_names_every_module():
    tree = README[README.index("```text\nmtlkit/") :]
    for path in (ROOT / "mtlkit").iterdir():
        if path.name.startswith(("_", ".")) or path.name == "py.typed":
            continue
        name = f"{path.name}/" if path.is_dir() else path.name
        assert re.search(rf"(?<![\w/]){re.escape(name)}", tree), f"{name} is not in the README's tree"


def test_the_table_names_every_command():
    from mtlkit.cli import main

    assert set(re.findall(r"^\| `mtlkit (\w+)", README, re.MULTILINE)) == set(main.commands)


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
