"""What is printed never commands the terminal: a label, a key or a file's name may be a stranger's."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic_core import SchemaError

from mtlkit.cli import main
from mtlkit.cli.output import Output, Table, command_output, printable
from mtlkit.cli.progress import show_progress
from mtlkit.engine.events import RunStarted

CLEAR = "\x1b[2J\x1b]0;owned\x07"


class TestPrintable:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain é 日本語 😀", "plain é 日本語 😀"),
            ("two\nlines\tand a tab", "two\nlines\tand a tab"),
            (CLEAR, r"\x1b[2J\x1b]0;owned\x07"),
            ("over\rwritten\x08", r"over\rwritten\x08"),
            ("\x9b31m", r"\x9b31m"),
            ("exe.\u202egpj", r"exe.\u202egpj"),
            ("half \ud800", r"half \ud800"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("\x1b[8mhidden", r"\x1b[8mhidden"),
        ],
    )
    def test_writes_as_escapes_what_a_terminal_obeys(self, text, shown):
        assert printable(text) == shown

    def test_of_one_line(self):
        assert printable("a\nb\tc", lines=False) == r"a\nb\tc"


def test_a_cell_of_a_table_stays_a_cell():
    assert Table(["name"], [["a\n\x1b[2Jb"]], "title\x07").plain() == "title\\x07\nname\na\\n\\x1b[2Jb"


def test_an_error_says_a_key_with_what_a_terminal_obeys_as_escapes(mtlkit, folder):
    (folder / "run.yaml").write_text('tasks: [digit]\n"\\e[2J": 1\n', encoding="utf-8")
    done = mtlkit("check", "run.yaml")
    assert done.stderr.startswith(r"Error: Unknown key '\x1b[2J' at \x1b[2J (run.yaml:2:1)")
    assert "\x1b" in json.loads(mtlkit("check", "run.yaml", "--json").stdout)["error"]["message"]


def test_the_name_of_a_file_in_no_encoding(mtlkit, folder):
    name = os.fsdecode(b"caf\xe9.yaml")
    (folder / name).write_text("tasks: []\n", encoding="utf-8")
    done = mtlkit("check", name)
    assert done.exit_code == 2
    assert r"(caf\udce9.yaml:1:8)" in done.stderr


def test_letters_that_the_output_lacks_are_escapes(folder):
    done = CliRunner(charset="ascii").invoke(main, ["show", "encoders", "mlp"])
    assert done.exit_code == 0, done.output
    assert r"\u2265 1" in done.stdout  # ≥ 1


def test_a_folder_with_brackets_is_no_markup(monkeypatch, tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    output = Output(as_json=False, quiet=False)
    with show_progress(output) as listeners:
        for listener in listeners:
            listener(RunStarted(Path("[/x]\x1b[2J"), ("digit",), step=0, steps=1, steps_per_epoch=1))
    assert "[/x]\\x1b[2J" in screen.getvalue()


class TestCommandOutput:
    """What ends a command is told of, and is its exit code."""

    @staticmethod
    def ended(error):
        @click.command()
        @command_output
        def command(output):
            raise error

        return CliRunner().invoke(command, [])

    @pytest.mark.parametrize(
        "error",
        [KeyboardInterrupt(), SchemaError('Error building "literal" validator:\n  KeyboardInterrupt: ')],
    )
    def test_ctrl_c_is_no_bug_wherever_it_came(self, error):
        """While pydantic builds a schema, it is told of as an error of the schema."""
        result = self.ended(error)
        assert result.exit_code == 130
        assert "Stopped at once." in result.output
        assert "bug" not in result.output

    @pytest.mark.parametrize("error", [SchemaError("Invalid Schema"), ValueError("KeyboardInterrupt")])
    def test_anything_else_is_one(self, error):
        result = self.ended(error)
        assert result.exit_code == 1
        assert "this is a bug in mtlkit" in result.output
