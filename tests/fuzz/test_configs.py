"""Mutated configurations: whatever is in one, the exit code is a documented one, and every problem has its place.

Each case is decided by MTLKIT_FUZZ_SEED and its number alone; one that fails is printed whole, to be kept as a test of
its own.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

import pytest
from children import failures
from click.testing import CliRunner
from mutation import extremes, mutated_data, mutated_text
from seeds import TINY, configurations, settings

import mtlkit.app
import mtlkit.audit  # noqa: F401 - before children are forked, each of which would import it again
from mtlkit import errors, yamlfile
from mtlkit.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory for one process are Linux's")

FAST = 400
PIECES, PIECE = 20, 1000
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7}  # 1 is a bug, and no signal is sent
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PLACE = re.compile(r"case\.yaml:(\d+):(\d+)\Z")


@pytest.fixture(scope="module")
def known():
    """The seeds, and the paths of all settings."""
    return configurations(), settings()


def raw_of(chance: random.Random, known) -> bytes:
    """Return the bytes of one mutated configuration."""
    seeds, paths = known
    data = chance.choice(seeds)
    if chance.random() < 0.25:
        return mutated_text(chance, yamlfile.dump(data))
    data = mutated_data(chance, data, seeds, paths)
    try:
        text = yamlfile.dump(data)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(data)
    if chance.random() < 0.05:
        return mutated_text(chance, text)
    return text.encode(errors="surrogatepass")


def words_of(chance: random.Random, raw: bytes) -> list[str]:
    """Return the command that is given the configuration; training is cut to two steps."""
    if chance.random() < 0.35 and not re.search(rb"accumulate: *[0-9]{2}", raw):
        return ["train", "case.yaml", "run.dir=runs", "training.steps=2", "--json", "--plugin", str(TINY)]
    shown = [["--json"], ["--json"], ["--json"], [], ["--debug"]]
    return ["check", "case.yaml", *chance.choice(shown), "--plugin", str(TINY)]


def wrong_with(raw: bytes, words: list[str]) -> str:
    """Run a command, and return what is wrong with what it did; nothing where all is well."""
    Path("case.yaml").write_bytes(raw)
    done = CliRunner().invoke(main, words, prog_name="mtlkit")
    output = done.stdout + done.stderr
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"it raised {done.exception!r}\n{output}"
    if done.exit_code not in DOCUMENTED:
        return f"exit code {done.exit_code}\n{output}"
    if "Traceback" in output and "--debug" not in words:
        return f"a traceback\n{output}"
    if found := CONTROL.search(output):
        return f"it printed the control character {found[0]!r}\n{output!r}"
    if "--json" not in words:
        return ""
    told = json.loads(done.stdout)
    error = told.get("error") if isinstance(told, dict) else None
    if error is None:
        return "" if done.exit_code in {0, errors.DataError.exit_code} else f"exit code {done.exit_code}, no error"
    if error["exit_code"] != done.exit_code:
        return f"exit code {done.exit_code}, and it says {error['exit_code']}"
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", raw.decode(errors="replace").removeprefix("\ufeff"))
    misplaced = [problem for problem in error.get("problems", []) if not is_in(problem, lines)]
    return f"problems without a place in the file: {misplaced}" if misplaced else ""


def is_in(problem: dict[str, str], lines: list[str]) -> bool:
    """Return whether a problem has a place that is in the file, by its lines, or was a word of the command line."""
    location = problem["location"]
    if location.startswith("command line: "):
        return True
    found = PLACE.match(location)
    return bool(found) and int(found[1]) <= len(lines) and int(found[2]) <= len(lines[int(found[1]) - 1]) + 1


def check(cases: range, seed: int, known) -> None:
    """Run cases, and fail with each that did what it should not."""

    def run(case: int) -> str:
        chance = random.Random(f"{seed}:{case}")
        raw = raw_of(chance, known)
        words = words_of(chance, raw)
        wrong = wrong_with(raw, words)
        return wrong and f"mtlkit {' '.join(words)}\n{wrong}\n--- case.yaml: {raw!r}"

    found = [f"case {each.case} of seed {seed}: {each.what}" for each in failures(cases, run)]
    assert not found, f"{len(found)} of {len(cases)} cases failed.\n" + "\n\n".join(found)


@pytest.mark.parametrize("quarter", range(4))
def test_mutated_configurations(seed, known, quarter):
    check(range(quarter * FAST // 4, (quarter + 1) * FAST // 4), seed, known)


@pytest.mark.slow
@pytest.mark.parametrize("tenth", range(10))
def test_every_number_at_its_extremes(known, tenth):
    tried = list(extremes(known[0]))
    words = ["check", "case.yaml", "--json", "--plugin", str(TINY)]

    def run(case: int) -> str:
        raw = yamlfile.dump(tried[case]).encode()
        wrong = wrong_with(raw, words)
        return wrong and f"{wrong}\n--- case.yaml: {raw!r}"

    found = [f"number {each.case}: {each.what}" for each in failures(range(tenth, len(tried), 10), run)]
    assert not found, "\n\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("piece", range(PIECES))
def test_many_mutated_configurations(seed, known, piece):
    check(range(FAST + piece * PIECE, FAST + (piece + 1) * PIECE), seed, known)
