"""An import path where the name of a component should be: names are looked up among what is installed, and no more."""

from __future__ import annotations

import re

import pytest

NAMES = [
    "os.system",
    "os:system",
    "builtins:exec",
    "mtlkit:os.system",
    "evil",
    "evil:evil",
    "evil.py:evil",
    "__import__('os').system('touch canary')",
    "torch.optim.Adam",
]
SECTIONS = {
    "encoder": "Unknown encoder",
    "architecture": "Unknown architecture",
    "strategy": "Unknown strategy",
    "optimizer": "Unknown optimizer",
    "tasks.0.name": "Unknown task",
    "hooks": "Unknown plugin",
    "schedule.name": "Unknown value",
}


@pytest.fixture(autouse=True)
def evil(tmp_path, canary):
    """A module that an import of the current folder would find."""
    (tmp_path / "evil.py").write_text(f"open({str(canary.path)!r}, 'w').close()\n", encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("section", SECTIONS)
def test_in_a_configuration_is_unknown(run, command, section, name):
    value = f'["{name}"]' if section == "hooks" else f'"{name}"'
    ended = command("check", "run.yaml", f"{section}={value}")
    assert ended.code in {2, 3}, ended.output
    said = (SECTIONS[section], "is not installed", "which was not given")
    assert any(each in ended.output for each in said), ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["strategies", "commands"])
def test_on_the_command_line_is_unknown(run, command, kind, name):
    assert command("show", kind, name).code in {2, 3}
    assert command(name).code in {2, 3}


@pytest.mark.parametrize("name", ["os.system", "evil:evil", "builtins:exec"])
def test_in_a_run_folder_is_unknown(run, command, name):
    path = run / "config.yaml"
    text = path.read_text(encoding="utf-8")
    forged = re.sub(r"(?m)^strategy:\n  name: .*$", f"strategy:\n  name: '{name}'", text)
    assert forged != text
    path.write_text(forged, encoding="utf-8")
    ended = command("evaluate", run)
    assert ended.code in {2, 3}, ended.output
    assert "Traceback" not in ended.output
