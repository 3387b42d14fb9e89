"""Golden runs: one that an mtlkit of any schema began is read, evaluated, and gone on with."""

import json
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import mtlkit
from mtlkit.engine import checkpoint
from mtlkit.engine.checkpoint.manifest import Manifest

HERE = Path(__file__).parents[2] / "fixtures" / "golden"
FOLDERS = sorted(HERE.glob("schema-*"))
NEWEST = "step-000004"

golden = SimpleNamespace(**runpy.run_path(str(HERE / "build.py")))


@pytest.fixture(name="run", params=FOLDERS, ids=lambda folder: folder.name)
def fixture_run(request, tmp_path, monkeypatch):
    """A copy of a golden run, at the place that its configuration names."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(request.param / "run", tmp_path / "runs" / "run")
    (tmp_path / "runs" / "expected.json").write_bytes((request.param / "expected.json").read_bytes())
    monkeypatch.setitem(sys.modules, "golden_tasks", None)  # for registry() to put its own there
    return tmp_path / "runs" / "run"


@pytest.fixture(name="expected")
def fixture_expected(run):
    """What the golden run holds."""
    return json.loads((run.parent / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(name="registry")
def fixture_registry(run):
    return golden.registry()


@pytest.fixture(autouse=True)
def fixture_other_versions():
    """Let the run have been made with another torch and another mtlkit than are here: it was."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The (run|results) may not")
        yield


def assert_close(ours, expected):
    """Compare what plain() returns, numbers to within rounding."""
    if isinstance(expected, dict):
        assert ours.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(ours[key], value)
    elif isinstance(expected, list):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-5)
    else:
        assert ours == expected


def test_there_is_one_of_every_schema():
    assert [folder.name for folder in FOLDERS] == [f"schema-{n}" for n in range(1, checkpoint.SCHEMA_VERSION + 1)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_is_small_and_in_the_repository(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 50_000
    if (HERE.parents[2] / ".git").exists():
        command = ["git", "check-ignore", *files]
        ignored = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
        assert ignored.stdout == ""


def test_each_is_of_its_schema(run, expected):
    for path in run.rglob("manifest.json"):
        version = int(json.loads(path.read_text(encoding="utf-8"))["schema_version"])
        assert Manifest.from_bytes(path.read_bytes(), path).schema_version == version
        assert checkpoint.verify(path.parent) == 4


def test_holds_what_was_saved(run, expected):
    folder = run / "checkpoints" / NEWEST
    assert golden.plain(checkpoint.read_weights(folder)) == expected["weights"]
    state = golden.plain(checkpoint.load_state(folder))
    for key, value in expected["state"].items():
        assert {name: state[key][name] for name in value} == value if isinstance(value, dict) else state[key] == value


def test_can_be_evaluated(run, registry):
    step, results = mtlkit.evaluate(run, registry=registry)
    assert step == 4
    assert set(results) == {"side", "height"}


def test_goes_on_to_where_it_would_have_ended(run, expected, registry):
    result = mtlkit.train(run / "config.yaml", resume=True, registry=registry)
    assert (result.folder.resolve(), result.steps) == (run, 8)
    assert_close(golden.plain(checkpoint.read_weights(run / "checkpoints" / "step-000008")), expected["last_weights"])
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in steps if record["event"] == "step"] == list(range(1, 9))
