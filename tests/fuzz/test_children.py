"""The children that cases run in: what one does wrong is told, whatever it is, and the others go on."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import children
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory for one process are Linux's")


def told(cases, **options):
    """Run functions as cases, and return what is said of each that failed, by its number."""
    return {each.case: each.what for each in children.failures(range(len(cases)), lambda n: cases[n](), **options)}


def well() -> str:
    Path("made.txt").write_text("here it may", encoding="utf-8")
    return ""


def test_what_is_well_says_nothing():
    assert told([well] * 3) == {}


def test_each_fault_is_told_and_the_others_go_on(tmp_path):
    outside = tmp_path / "outside.txt"

    def starts():
        os.system("true")  # noqa: S605, S607 - it is stopped
        return ""

    cases = [
        well,
        lambda: "it said so",
        lambda: str(1 / 0),
        lambda: str(os._exit(3)),
        lambda: os.kill(os.getpid(), signal.SIGKILL) or "",
        lambda: outside.write_text("x", encoding="utf-8") and "",
        lambda: outside.mkdir() or "",
        starts,
        lambda: str(len(bytearray(10**11))),
        well,
    ]
    found = told(cases)
    assert sorted(found) == list(range(1, 9))
    said = ["it said so", "ZeroDivisionError", "ended with status 3", "ended with status -9", "outside.txt"]
    said += ["outside.txt", "started a program: os.system", "MemoryError"]
    for number, text in enumerate(said, 1):
        assert text in found[number]
    assert not outside.exists()


def test_one_that_computes_without_end(monkeypatch):
    monkeypatch.setattr(children, "SECONDS", 1)

    def computes():
        while True:
            pass

    assert told([well, computes, well]) == {1: "computed for more than 1 s"}


def test_one_that_waits_without_end(monkeypatch):
    monkeypatch.setattr(children, "PATIENCE", 2)
    assert told([lambda: time.sleep(1000) or ""]) == {0: "took more than 2 s"}
