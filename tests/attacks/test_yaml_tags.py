"""Tags that make other readers of YAML build objects, and so run code: there are none."""

from __future__ import annotations

import pytest

TAGS = [
    "!!python/object/apply:os.system [touch {canary}]",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{canary}]]",
    "!!python/object/new:os.system [touch {canary}]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:mtlkit.task.Split {{}}",
    "!<tag:yaml.org,2002:python/object/apply:os.system> [touch {canary}]",
    "!include /etc/passwd",
    "!!binary c2VjcmV0",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", ["tasks: [kind, {tag}]", "run: {{{{name: {tag} }}}}", "{tag}", "? {tag}\n: 1"])
def test_is_refused_where_it_stands(tmp_path, command, canary, tag, place):
    text = place.format(tag=tag).format(canary=canary.path)
    (tmp_path / "evil.yaml").write_text(f"%TAG !y! tag:yaml.org,2002:\n---\n{text}\n", encoding="utf-8")
    ended = command("check", "evil.yaml")
    assert ended.code == 2
    assert "Tag '" in ended.output
    assert "is not supported (evil.yaml:3:" in ended.output or "is not supported (evil.yaml:4:" in ended.output


def test_on_the_command_line_is_refused_too(run, command, canary):
    ended = command("check", "run.yaml", f"run.name=!!python/object/apply:os.system [touch {canary.path}]")
    assert ended.code == 2
    assert "is not supported (command line: run.name=" in ended.output
