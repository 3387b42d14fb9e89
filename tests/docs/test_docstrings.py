"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import mtlkit

ROOT = Path(mtlkit.__file__).parent
EXEMPLARY = sorted(
    ".".join(["mtlkit", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[:2] != ("scaffold", "templates") and ">>> " in path.read_text(encoding="utf-8")
)


def test_the_solvers_and_the_strategies_are_exemplary():
    assert {"mtlkit.solvers.min_norm", "mtlkit.strategies.cagrad"} <= set(EXEMPLARY)


@pytest.mark.parametrize("name", EXEMPLARY)
def test_its_examples_print_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed, "see the output above"
