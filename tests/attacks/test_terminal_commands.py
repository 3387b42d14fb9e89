"""Escape sequences that command a terminal, and letters that turn the direction of text, wherever text is shown."""

from __future__ import annotations

import json
import re

import pytest

COMMANDS = ["\x1b[2J", "\x1b]0;owned\x07", "\x9b31m", "\x08" * 20, "\rError: none", "\u202egpj.exe"]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def assert_harmless(ended):
    assert "Traceback" not in ended.output
    assert not OBEYED.search(ended.output), ended.output


@pytest.mark.parametrize("text", COMMANDS, ids=repr)
@pytest.mark.parametrize("place", ["{}: 1", "tasks: [{}]", "encoder: {{{}: 1}}", "encoder: {{name: mlp, layers: {}}}"])
def test_in_a_configuration(tmp_path, command, text, place):
    (tmp_path / "evil.yaml").write_text(place.format(json.dumps(text)) + "\n", encoding="utf-8")
    ended = command("check", "evil.yaml")
    assert ended.code == 2
    assert_harmless(ended)


@pytest.mark.parametrize("text", COMMANDS, ids=repr)
def test_in_the_name_of_a_file(tmp_path, command, text):
    name = text.replace("/", "") + ".yaml"
    (tmp_path / name).write_text("tasks: []\n", encoding="utf-8")
    ended = command("check", name)
    assert ended.code == 2
    assert_harmless(ended)


@pytest.mark.parametrize("text", COMMANDS, ids=repr)
def test_in_the_results_of_a_run(run, command, text):
    test = {text: {"loss": 1.0, "metrics": {text: 0.5}, "rows": 3}}
    (run / "done.json").write_text(json.dumps({"steps": 8, "best_step": 8, "test": test}), encoding="utf-8")
    failure = dict.fromkeys(("plugin", "version", "entry_point", "hook", "error"), text) | {"step": 1}
    (run / "hook_failures.jsonl").write_text(json.dumps(failure) + "\n", encoding="utf-8")
    assert_harmless(command("train", "run.yaml", "--resume"))


@pytest.mark.parametrize("text", COMMANDS, ids=repr)
def test_in_whatever_a_run_says_of_itself(run, command, text):
    path = run / "config.yaml"
    config = path.read_text(encoding="utf-8")
    assert "  title: null\n" in config
    path.write_text(config.replace("  title: null\n", f"  title: {json.dumps(text)}\n"), encoding="utf-8")
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    (run / "environment.json").write_text(json.dumps(dict.fromkeys(facts, text) | {"plugins": []}), encoding="utf-8")
    for words in (["list"], ["show", "runs/run"], ["verify", "runs/run"], ["clean", "--dry-run"]):
        assert_harmless(command("runs", *words))
