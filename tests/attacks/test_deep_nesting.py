"""Brackets within brackets, deep enough to exhaust the stack of whoever follows them down."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_of_a_configuration(tmp_path, command, text):
    (tmp_path / "evil.yaml").write_text(text, encoding="utf-8")
    ended = command("check", "evil.yaml")
    assert ended.code == 2
    assert "Nested more than 50 levels deep (evil.yaml:1:" in ended.output


def test_of_an_override(run, command):
    ended = command("check", "run.yaml", f"run.name={'[' * 60}")
    assert ended.code == 2
    assert "Nested more than 50 levels deep" in ended.output


@pytest.mark.parametrize("depth", [51, 990, 100_000])
@pytest.mark.parametrize("name", ["environment.json", "done.json"])
def test_of_the_json_of_a_run(run, command, name, depth):
    (run / name).write_text('{"plugins":' + "[" * depth + "]" * depth + "}", encoding="utf-8")
    ended = command("evaluate", run) if name == "environment.json" else command("train", "run.yaml", "--resume")
    assert ended.code == 5
    assert name in ended.output
    assert "it is too deep" in ended.output
    assert "Traceback" not in ended.output


def test_of_the_records_of_a_run(run, command):
    (run / "done.json").write_text(json.dumps({"steps": 8, "best_step": 8, "test": {}}), encoding="utf-8")
    (run / "hook_failures.jsonl").write_text("[" * 100_000 + "\n", encoding="utf-8")
    ended = command("train", "run.yaml", "--resume")
    assert ended.code == 5
    assert "hook_failures.jsonl cannot be read: line 1: it is" in ended.output
