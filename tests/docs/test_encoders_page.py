"""The examples of docs/encoders.md run, and what it shows is what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import mtlkit
from mtlkit.cli import main
from mtlkit.errors import ConfigError
from mtlkit.yamlfile import load

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^<!-- file: (\S+) -->\n```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ mtlkit (.*)$", PAGE, re.MULTILINE)
SNIPPETS = re.findall(r"(?<!network -->\n)^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(REPORT,) = re.findall(r"^ *```text\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which everything that the page types was typed."""
    folder = tmp_path_factory.mktemp("encoders")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in COMMANDS:
            done = CliRunner().invoke(main, command.split())
            assert done.exit_code == 0, done.output
        yield folder


def test_the_second_run_began_where_the_first_one_ended(folder):
    environment = json.loads((folder / "runs" / "second" / "environment.json").read_text(encoding="utf-8"))
    assert environment["pretrained"]["path"] == str((folder / "runs/first/best/weights.safetensors").resolve())


def test_what_does_not_fit_is_told_as_the_page_says(folder):
    document = load(Path("second.yaml")).override(("encoder", "layers"), [64, 48], "command line")
    with pytest.raises(ConfigError) as caught:
        mtlkit.build(document)
    assert str(caught.value).split() == REPORT.split()


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_runs(snippet):
    exec(snippet, {})  # noqa: S102 - it is what is under test


def test_all_of_it_was_found():
    assert (len(FILES), len(COMMANDS), len(SNIPPETS)) == (2, 2, 1)
