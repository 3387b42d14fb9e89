"""What a run folder says of itself, forged: commands made of it are harmless, and what is no record is no crash."""

from __future__ import annotations

import json

import pytest

PLUGINS = [
    {"distribution": "--index-url=http://example.org", "version": "1", "kind": "tasks"},
    {"distribution": "acme; rm -rf ~", "version": "1", "kind": "tasks"},
    {"distribution": "acme\n\x1b[2J", "version": "1", "kind": "tasks"},
    {"distribution": ["acme"], "version": "1", "kind": "tasks"},
    {"distribution": "acme", "version": "1", "kind": "tasks", "origin": {"vcs": "git"}},
    {"distribution": "acme", "version": "1", "kind": "tasks", "origin": 3},
    {},
    None,
    3,
    "acme",
]
FILES = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"3",
    b'"x"',
    b"\xff",
    b'{"plugins": 3}',
    b'{"plugins": [], "plugins": []}',
    b"NaN",
]


@pytest.mark.parametrize("plugin", PLUGINS, ids=repr)
def test_plugins_that_are_none(run, command, plugin):
    (run / "environment.json").write_text(json.dumps({"plugins": [plugin]}), encoding="utf-8")
    for ended in (command("evaluate", run), command("train", "run.yaml", "--resume")):
        assert ended.code == 5, ended.output
        assert "environment.json cannot be read" in ended.output
        assert "Traceback" not in ended.output
        assert "\x1b" not in ended.output


@pytest.mark.parametrize("version", ["1; rm -rf ~", "1 --index-url=http://example.org", "$(id)", "1\n\x1b[2J"])
def test_a_version_is_one_argument_of_the_command_that_is_shown(run, command, version):
    plugin = {"distribution": "acme", "version": version, "kind": "tasks", "name": "x"}
    (run / "environment.json").write_text(json.dumps({"plugins": [plugin]}), encoding="utf-8")
    ended = command("evaluate", run)
    assert ended.code == 3
    assert "pip install 'acme==" in ended.output
    assert "\x1b" not in ended.output


@pytest.mark.parametrize("raw", FILES, ids=repr)
@pytest.mark.parametrize("name", ["environment.json", "done.json"])
def test_files_that_are_no_records(run, command, name, raw):
    (run / name).write_bytes(raw)
    ended = command("evaluate", run) if name == "environment.json" else command("train", "run.yaml", "--resume")
    assert ended.code == 5, ended.output
    assert name in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("test", [3, {"side": 3}, {"side": {"loss": "x"}}, {"side": {}}, [], None])
def test_results_that_are_none(run, command, test):
    (run / "done.json").write_text(json.dumps({"steps": 8, "best_step": 8, "test": test}), encoding="utf-8")
    ended = command("train", "run.yaml", "--resume")
    assert ended.code == 5, ended.output
    assert "done.json" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("raw", FILES, ids=repr)
@pytest.mark.parametrize("name", ["environment.json", "done.json", "config.yaml", "metrics.jsonl"])
def test_a_list_of_runs_goes_on_past_them(run, command, name, raw):
    (run / name).write_bytes(raw)
    for words in (["list"], ["show", "runs/run"], ["verify", "runs/run"], ["clean", "--dry-run"]):
        ended = command("runs", *words)
        assert ended.code in {0, 2, 5}, ended.output
        assert "Traceback" not in ended.output
    assert "run" in command("runs", "list").output
