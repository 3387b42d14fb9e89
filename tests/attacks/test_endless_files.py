"""Files that never end, or that one waits for: named pipes, devices, and more bytes than anyone wrote by hand."""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")


@pytest.mark.parametrize("kind", ["a named pipe", "/dev/zero", "/dev/urandom", "sparse"])
@pytest.mark.parametrize("words", [["check"], ["train"], ["train", "--resume"], ["baseline"]])
def test_as_a_configuration(tmp_path, command, kind, words):
    path = tmp_path / "evil.yaml"
    make(path, kind)
    ended = command(*words, "evil.yaml", memory=300_000_000)
    assert ended.code == 2
    assert "evil.yaml" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("kind", ["a named pipe", "/dev/zero", "sparse"])
@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "done.json", "hook_failures.jsonl", "metrics.jsonl"]
)
def test_in_a_run_folder(run, command, name, kind):
    (run / name).unlink(missing_ok=True)
    make(run / name, kind)
    ways = [command("evaluate", run, memory=500_000_000), command("train", "run.yaml", "--resume", memory=500_000_000)]
    ways += [command("runs", "list", memory=500_000_000), command("runs", "show", run, memory=500_000_000)]
    assert all("Traceback" not in ended.output for ended in ways)
    assert any(ended.code in {2, 5} and name in ended.output for ended in ways) or name.endswith("l")


@pytest.mark.parametrize("kind", ["a named pipe", "/dev/zero"])
def test_as_weights_to_begin_with(run, tmp_path, command, kind):
    make(tmp_path / "evil.safetensors", kind)
    ended = command("train", "run.yaml", "run.name=other", "transfer.pretrained=evil.safetensors")
    assert ended.code == 5
    assert "evil.safetensors" in ended.output


@pytest.mark.parametrize("kind", ["a named pipe", "/dev/zero", "sparse"])
def test_as_a_plugin(run, tmp_path, command, kind):
    make(tmp_path / "evil_tasks.py", kind)
    ended = command("check", "run.yaml", "--plugin", "evil_tasks.py", memory=300_000_000)
    assert ended.code == 3
    assert "evil_tasks.py" in ended.output
    assert "Traceback" not in ended.output


def make(path, kind):
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "sparse":
        with path.open("wb") as file:
            file.truncate(10**10)
    else:
        path.symlink_to(kind)
