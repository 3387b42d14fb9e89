"""docs/security.md names the test of each promise, and the tests of attacks are those that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ATTACKS = sorted((ROOT / "tests" / "attacks").glob("test_*.py"))


def test_every_attack_is_a_promise_and_every_promise_has_its_attack():
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and "`test_" in line]
    named = [name for row in rows for name in re.findall(r"`(test_\w+\.py)`", row)]
    assert sorted(named) == [path.name for path in ATTACKS]


@pytest.mark.parametrize("path", ATTACKS, ids=lambda path: path.stem)
def test_an_attack_says_what_it_is(path):
    assert len(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") > 20


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md", "docs/run-folder.md"])
def test_it_is_found_from(page):
    assert "security.md" in (ROOT / page).read_text(encoding="utf-8")
