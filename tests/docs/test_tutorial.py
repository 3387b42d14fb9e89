"""The authors' tutorial, followed from its first line to its last.

Each block of it is acted on, in order: what a ``console`` block types is run, and prints the lines shown below it; a
``diff`` is applied; a block below ``<!-- file: NAME -->`` is written to that file; all other code is parsed. A block
below ``<!-- not run: REASON -->`` is left out.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mtlkit.testing import checks_of

FILE = Path(__file__).resolve().parents[2] / "docs" / "authors" / "tutorial.md"
TEXT = FILE.read_text(encoding="utf-8")
BLOCK = re.compile(r"(?:^<!-- (not run|file): ([^\n]+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: the line that it begins at, what is said of it above, its language and its text."""

    line: int
    note: str
    value: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for found in BLOCK.finditer(TEXT):
        line = TEXT[: found.start(3)].count("\n") + 1
        yield Block(line, found[1] or "", found[2] or "", found[3], found[4])


class Reader:
    """Somebody who follows the tutorial, in a virtual environment that has mtlkit and no network.

    Args:
        home: An empty folder.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / "work"
        self.folder.mkdir()
        programs = _environment(home / "venv")
        self.environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",  # its models are small, and threads that wait for a core are slow
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which pip reads as: no isolation
            "PIP_NO_INDEX": "1",
        }

    def follow(self, block: Block) -> None:
        if block.note == "not run":
            return
        if block.note == "file":
            (self.folder / block.value).write_text(block.text, encoding="utf-8")
        elif block.language == "diff":
            self.run("git apply --recount -", block.text)
        elif block.language == "console":
            for command, shown in _commands(block):
                if command.startswith("cd "):
                    self.folder = (self.folder / command.removeprefix("cd ")).resolve(strict=True)
                else:
                    _require_shown(shown, self.run(command), command)

    def run(self, command: str, given: str | None = None) -> str:
        # Not within a repository of whoever runs the tests, where git would look for the files.
        environment = self.environment | {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)}
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=environment,
            input=given,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout


def _environment(folder: Path) -> Path:
    """Make a virtual environment that sees what this one has installed, and return where its programs are."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # addsitedir() reads the .pth files in there too, by which an editable mtlkit is found.
    outer = sysconfig.get_path("purelib")
    Path(paths["purelib"], "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n", encoding="utf-8")
    for name, arguments in {"pip": "-m pip", "pytest": "-W error -m pytest", "mtlkit": "-W error -m mtlkit"}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{programs / "python"}" {arguments} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return programs


def _commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block, with the lines that are shown below it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, [line for line in shown if line != "..."]


def _require_shown(shown: list[str], printed: str, command: str) -> None:
    """Require that the lines shown are among those printed, in order; how wide columns are is the table's affair."""
    lines = iter([line.split() for line in printed.splitlines()])
    for line in shown:
        assert line.split() in lines, f"$ {command}\ndid not print: {line}\nbut:\n{printed}"


@pytest.mark.skipif(os.name == "nt", reason="it is written for a POSIX shell")
def test_it_can_be_followed(tmp_path):
    reader = Reader(tmp_path)
    for block in blocks():
        try:
            reader.follow(block)
        except AssertionError as error:
            raise AssertionError(f"{FILE.name}:{block.line}: {error}") from error


@pytest.mark.parametrize("block", [pytest.param(block, id=f"line {block.line}") for block in blocks()])
def test_every_block_is_what_it_says(block):
    if block.language == "python":
        ast.parse(block.text)
    elif block.language == "toml":
        assert tomllib.loads(block.text)
    elif block.language == "yaml":
        assert yaml.safe_load(block.text)
    else:
        assert block.language in {"console", "diff", "text"}
    if block.language == "console":
        assert block.text.startswith("$ ")


def test_every_check_that_it_names_is_one():
    named = set(re.findall(r'expected_failures=\{"(\w+)"', TEXT))
    assert named
    assert named <= {check.name for check in checks_of("tasks")}


def test_every_fence_and_note_is_read():
    found = list(blocks())
    assert TEXT.count("```") == 2 * len(found)
    assert TEXT.count("<!--") == sum(bool(block.note) for block in found)
    assert all(len(line) <= 120 for line in TEXT.splitlines())


def test_every_link_leads_somewhere():
    found = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    headings = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in found}
    prose = re.sub(r"^```.*?^```", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)]+)\)", prose):
        path, _, heading = target.partition("#")
        assert heading in headings if not path else (FILE.parent / path).exists(), target
