"""Many processes that start the same run at once: one has it, every other is told, and nothing is damaged."""

import json
import os
import subprocess
import sys

import pytest

from mtlkit.engine.run import RunFolder
from mtlkit.locking import is_locked

STARTERS = 32

# Imports once, and forks: what is raced for is the folder.
RACE = """
import os, sys
from pathlib import Path
from mtlkit.engine.run import RunFolder
from mtlkit.errors import ConfigError

def start(number, path):
    said, code = "won", 0
    try:
        with RunFolder.create(path, config=f"number: {number}", environment={"number": number}) as run:
            run.append("metrics.jsonl", {"number": number})
    except ConfigError as error:
        said, code = f"told: {error}", error.exit_code
    os.write(1, f"{number} {said}\\n".encode())
    os._exit(code)

for path in sys.argv[2:]:
    ready, go = os.pipe()
    children = []
    for number in range(int(sys.argv[1])):
        children.append(os.fork())
        if not children[-1]:
            os.close(go)
            os.read(ready, 1)  # until the parent closes its end
            start(number, Path(path))
    os.close(go)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    os.write(1, f"{codes}\\n".encode())
"""


class TestOneWins:
    def test_the_folder(self, tmp_path):
        paths = [tmp_path / "runs" / name for name in ("a", "b", "c")]
        command = [sys.executable, "-c", RACE, str(STARTERS), *map(str, paths)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        assert done.stderr == ""
        lines = iter(done.stdout.splitlines())
        for path in paths:
            said = [next(lines) for _ in range(STARTERS)]
            assert next(lines) == str([0] + [2] * (STARTERS - 1))
            (winner,) = [line.split()[0] for line in said if line.endswith(" won")]
            assert sum(f" told: The run folder {path} exists already" in line for line in said) == STARTERS - 1
            assert (path / "config.yaml").read_text(encoding="utf-8").endswith(f"\nnumber: {winner}")
            environment = json.loads((path / "environment.json").read_text(encoding="utf-8"))
            assert environment == {"number": int(winner), "seal": environment["seal"]}
            assert (path / "metrics.jsonl").read_text(encoding="utf-8") == f'{{"number": {winner}}}\n'
            assert json.loads((path / "lock.json").read_text(encoding="utf-8"))["ended"] == "finished"
        assert sorted((tmp_path / "runs").iterdir()) == paths

    @pytest.mark.slow
    @pytest.mark.parametrize("resume", [False, True])
    def test_the_command(self, tmp_path, resume):
        """The whole command, 32 times at once: about two seconds of CPU for each."""
        config = tmp_path / "run.yaml"
        settings = {
            "run": {"name": "same", "dir": str(tmp_path / "runs")},
            "tasks": ["digit"],
            "training": {"steps": 400, "device": "cpu", "threads": 1},
        }
        config.write_text(json.dumps(settings), encoding="utf-8")
        command = [sys.executable, "-m", "mtlkit", "train", str(config), *(["--resume"] if resume else [])]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started = [subprocess.Popen(command, cwd=tmp_path, **pipes) for _ in range(STARTERS)]
        try:
            ended = [(*process.communicate(timeout=600), process.returncode) for process in started]
        finally:
            for process in started:
                process.kill()
                process.wait()
        alone = subprocess.run([*command[:5], "run.name=alone"], cwd=tmp_path, check=True, capture_output=True)
        assert alone.returncode == 0
        codes = [code for *_, code in ended]
        if not resume:
            assert sorted(codes) == [0] + [2] * (STARTERS - 1)
        assert set(codes) <= {0, 2}  # one that comes after the end says what came of the run
        for _, err, code in ended:
            assert code == 0 or ("same" in err and ("exists already" in err or "is in use by process" in err)), err
            assert "Traceback" not in err
        for name in ("metrics.jsonl", "done.json", "best/weights.safetensors"):
            same, other = (tmp_path / "runs" / run / name for run in ("same", "alone"))
            assert same.read_bytes() == other.read_bytes()
        assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["alone", "same"]


def test_a_new_run_is_its_makers_from_the_start(tmp_path, monkeypatch):
    """There is no moment at which the run is there and its lock is not held."""
    seen = []
    rename = os.rename

    def look(source, target, **kwargs):
        rename(source, target, **kwargs)
        if str(target).endswith("run"):
            seen.append(is_locked(tmp_path / "run"))

    monkeypatch.setattr("os.rename", look)
    with RunFolder.create(tmp_path / "run", config="", environment={}):
        assert seen == [True]
        assert is_locked(tmp_path / "run")
    assert not is_locked(tmp_path / "run")
