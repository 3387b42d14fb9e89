"""A run folder that names Python files, or plugins, to be imported: whoever evaluates or resumes it imports none."""

from __future__ import annotations

import json

import pytest

import mtlkit
from mtlkit.cli import main

WAYS = [["evaluate"], *([["resume"]] if "resume" in main.commands else [])]


@pytest.fixture
def evil(run, tmp_path, canary):
    """A file that sings when it is imported; the run's configuration names it."""
    path = tmp_path / "evil_tasks.py"
    path.write_text(f"open({str(canary.path)!r}, 'w').close()\n", encoding="utf-8")
    for config in (run / "config.yaml",):
        text = config.read_text(encoding="utf-8")
        assert "  files: []\n" in text
        config.write_text(text.replace("  files: []\n", f"  files: [{path}]\n"), encoding="utf-8")
    return path


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_named_by_its_configuration(run, evil, command, way):
    ended = command(*way, run)
    assert "Traceback" not in ended.output


@pytest.mark.filterwarnings("ignore:.*its seal is broken")
def test_named_by_its_configuration_to_the_engine(run, evil, registry):
    mtlkit.evaluate(run, registry=registry)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_named_by_its_provenance(run, evil, command, way):
    origin = {"url": evil.as_uri(), "sha256": "0" * 64}
    plugin = {"kind": "tasks", "name": "evil", "distribution": evil.name, "version": "1", "origin": origin}
    path = run / "environment.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(facts | {"plugins": [plugin]}), encoding="utf-8")
    ended = command(*way, run)
    assert ended.code == 3
    assert "Give it: --plugin" in ended.output


@pytest.mark.parametrize("name", ["config.py", "evil_tasks.py", "sitecustomize.py", "mtlkit.py", "torch.py"])
def test_that_only_lies_there(run, command, canary, name):
    (run / name).write_text(f"open({str(canary.path)!r}, 'w').close()\n", encoding="utf-8")
    assert command("evaluate", run).code == 0
    assert command("evaluate", ".", folder=run).code == 0
