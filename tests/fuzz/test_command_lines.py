"""Mutated command lines: whatever is typed, the exit code is a documented one, and nothing but the folder is touched.

Each case is decided by MTLKIT_FUZZ_SEED and its number alone; one that fails is printed whole, to be kept as a test of
its own. A command that is added is tried from then on: what it takes is read from click.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import sys
from pathlib import Path

import click
import pytest
from children import failures
from click.testing import CliRunner
from mutation import mutated_words
from seeds import TINY

from mtlkit.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory for one process are Linux's")

FAST = 150
PIECES, PIECE = 10, 500
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7}
WITHOUT_COMMAND = {"-h", "--help", "--version"}
RUN = """\
run: {name: again, dir: runs}
tasks: [{name: kind, label: what}, size]
encoder: {name: mlp, layers: [4]}
training: {steps: 2, batch_size: 8, device: cpu, threads: 1}
"""
VALUES = [
    *("run.yaml", "bad.yaml", "none.yaml", "runs", "runs/done", "runs/done/config.yaml", "runs/none", ".", "..", "new"),
    *("tasks", "encoders", "strategies", "mlp", "kind", "mtlkit:mlp", "digit", "fixed", "acme-mtl", "Acme_MTL", "done"),
    *("run.name=other", "run.name=done", "run.seed=3", "training.steps=1", "strategy.name=gradnorm", "strategy=pcgrad"),
    *("tasks.what.weight=2", "tasks.0.weight=0", "encoder.layers=[4, 4]", "encoder.width=1", "training.epochs=1"),
    *("tasks=[]", "a.b.c=1", "=", "x=", "=x", "a..b=1", "run={}", "tasks.what=[", "best", "last", "test"),
    *("0", "1", "-1", "1.5", "--", "-", "--resume", "--plugin", str(TINY), "bad.py", "--json", "--no-plugins"),
]  # fmt: skip


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A folder with a configuration, a broken one, a file that is no plugin, and a finished run."""
    folder = tmp_path_factory.mktemp("ready")
    (folder / "run.yaml").write_text(RUN, encoding="utf-8")
    (folder / "bad.yaml").write_text("tasks: [nothing\n", encoding="utf-8")
    (folder / "bad.py").write_text("raise ImportError('broken')\n", encoding="utf-8")
    here = Path.cwd()
    os.chdir(folder)
    try:
        arguments = ["train", "run.yaml", "run.name=done", "-q", "--plugin", str(TINY)]
        done = CliRunner().invoke(main, arguments)
    finally:
        os.chdir(here)
    assert done.exit_code == 0, done.output
    return folder


def commands(group: click.Group = main, before: tuple[str, ...] = ()):
    """Return every command that ships, by the words that name it."""
    found = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, (*before, name))
        found[*before, name] = command
    return found


def words_of_a_command(chance: random.Random, name: tuple[str, ...], command: click.Command) -> list[str]:
    """Return a command line that is near to a sound one: arguments, then some options with values of their types."""
    made = list(name)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and chance.random() < 0.75:
            continue
        if isinstance(parameter, click.Option):
            made.append(chance.choice(parameter.opts))
            if parameter.is_flag:
                continue
        made.append(_value_of(chance, parameter))
    if chance.random() < 0.7:
        made += ["--plugin", str(TINY)]
    return made


def _value_of(chance: random.Random, parameter: click.Parameter) -> str:
    if chance.random() < 0.2:
        return chance.choice(VALUES)
    if isinstance(parameter.type, click.Choice):
        return chance.choice(list(parameter.type.choices))
    if isinstance(parameter.type, click.IntRange):
        return chance.choice(["1", "0", "2", "-1", "x"])
    return {
        "config": "run.yaml",
        "files": str(TINY),
        "overrides": chance.choice(["training.steps=1", "run.name=other", "run.seed=1"]),
        "run": chance.choice(["runs/done", "runs/again", "runs"]),
    }.get(str(parameter.name), chance.choice(VALUES))


def words_of(chance: random.Random) -> list[str]:
    """Return one mutated command line."""
    found = commands()
    name = chance.choice(list(found))
    words = words_of_a_command(chance, name, found[name])
    known = [*VALUES, *(each[-1] for each in found), *(o for c in found.values() for p in c.params for o in p.opts)]
    return [word for word in mutated_words(chance, words, known) if word.count("..") < 2 and "=/" not in word]


def wrong_with(words: list[str], ready: Path) -> str:
    """Run a command line in a copy of the folder, and return what is wrong with what it did."""
    shutil.copytree(ready, Path(), dirs_exist_ok=True)
    os.environ["MTLKIT_PLUGINS"] = ""  # what is installed beside mtlkit is not what is tried here
    done = CliRunner().invoke(main, words, prog_name="mtlkit")
    output = done.stdout + done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"it raised {done.exception!r}\n{output}"
    if done.exit_code not in DOCUMENTED:
        return f"exit code {done.exit_code}\n{output}"
    if "Traceback" in output and "--debug" not in words:
        return f"a traceback\n{output}"
    if done.exit_code and not output.strip():
        return f"exit code {done.exit_code}, and not a word why"
    if done.exit_code == 0 and "--json" in words and not WITHOUT_COMMAND & set(words):
        json.loads(done.stdout)
    return ""


def check(cases: range, seed: int, ready: Path) -> None:
    """Run cases, and fail with each that did what it should not."""

    def run(case: int) -> str:
        words = words_of(random.Random(f"words:{seed}:{case}"))
        wrong = wrong_with(words, ready)
        return wrong and f"mtlkit {shlex.join(words)}\n{wrong}"

    found = [f"case {each.case} of seed {seed}: {each.what}" for each in failures(cases, run, may_start=True)]
    assert not found, f"{len(found)} of {len(cases)} cases failed.\n" + "\n\n".join(found)


def test_mutated_command_lines(seed, ready):
    check(range(FAST), seed, ready)


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(PIECES))
def test_many_mutated_command_lines(seed, ready, piece):
    check(range(FAST + piece * PIECE, FAST + (piece + 1) * PIECE), seed, ready)
