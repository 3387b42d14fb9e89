"""Commands of plugins: listed without being imported, run as any other, and blamed for what goes wrong in them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

COMMANDS = """
import sys

import click

import mtlkit


@click.command()
@click.argument("bottle")
@click.option("--glasses", type=int, default=2, help="How many.")
def drink(bottle, glasses):
    '''Drink a bottle.'''
    click.echo(f"{glasses} glasses of {bottle}")


@click.command()
@click.option("--how", default="raise")
def spill(how):
    '''Spill it.'''
    if how == "raise":
        raise ValueError("on the carpet")
    if how == "exit":
        sys.exit(42)
    if how == "usage":
        raise click.UsageError("not so")
    if how == "abort":
        raise click.Abort
    if how == "mtlkit":
        raise mtlkit.errors.DataError("There is no rum.")
    if how == "interrupt":
        raise KeyboardInterrupt
    click.get_current_context().exit(7)


def corked(context, parameter, value):
    raise RuntimeError("corked")


@click.command()
@click.option("--bottle", callback=corked)
def cork(bottle):
    '''Cork it.'''


@click.group()
def cellar():
    '''Look after the cellar.'''


@cellar.command()
def count():
    '''Count the bottles.'''
    click.echo("99 bottles")


@cellar.command()
def flood():
    '''Flood it.'''
    [][1]


drink_ = mtlkit.plugin(drink)
spill_ = mtlkit.plugin(spill)
cork_ = mtlkit.plugin(cork)
cellar_ = mtlkit.plugin(cellar)
"""
NAMES = ("drink", "spill", "cork", "cellar")


@pytest.fixture
def commands(install) -> Path:
    """A distribution with four commands."""
    entry_points = {"commands": {name: f"acme_bar:{name}_" for name in NAMES}}
    return install("acme-bar", "0.4", entry_points=entry_points, modules={"acme_bar": COMMANDS})


class TestHelp:
    def test_lists_them_with_a_summary_and_imports_none(self, commands, mtlkit):
        done = mtlkit("--help")
        assert done.exit_code == 0
        listed = done.stdout.partition("Commands of plugins:\n")[2]
        assert [line.split(maxsplit=1) for line in listed.splitlines()] == [
            ["cellar", "Look after the cellar."],
            ["cork", "Cork it."],
            ["drink", "Drink a bottle."],
            ["spill", "Spill it."],
        ]
        assert "acme_bar" not in sys.modules

    def test_says_nothing_where_there_are_none(self, mtlkit):
        assert "Commands of plugins" not in mtlkit("--help").stdout

    def test_leaves_out_what_may_not_be_used(self, commands, mtlkit, monkeypatch):
        monkeypatch.setenv("MTLKIT_PLUGINS", "")
        assert "Commands of plugins" not in mtlkit("--help").stdout
        monkeypatch.setenv("MTLKIT_PLUGINS", "a b")
        assert mtlkit("--help").exit_code == 0

    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_of_one(self, commands, mtlkit, flag):
        done = mtlkit("drink", flag)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("Usage: mtlkit drink [OPTIONS] BOTTLE\n\n  Drink a bottle.\n")
        assert "--glasses INTEGER" in done.stdout


class TestRunning:
    def test_arguments_are_passed_on(self, commands, mtlkit):
        done = mtlkit("drink", "rum", "--glasses", "3")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "3 glasses of rum\n", "")

    @pytest.mark.parametrize("name", ["Drink", "acme-bar:drink", "Acme.Bar:DRINK"])
    def test_by_any_of_its_names(self, commands, mtlkit, name):
        assert mtlkit(name, "rum").stdout == "2 glasses of rum\n"

    def test_of_a_group(self, commands, mtlkit):
        assert mtlkit("cellar", "count").stdout == "99 bottles\n"
        assert "Usage: mtlkit cellar count" in mtlkit("cellar", "count", "--help").stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["drink"], "Error: Missing argument 'BOTTLE'."),
            (["drink", "rum", "--glasses", "x"], "Invalid value for '--glasses': 'x' is not a valid integer."),
            (["spill", "--how", "usage"], "Error: not so"),
            (["cellar", "burn"], "No such command 'burn'"),
        ],
    )
    def test_wrong_arguments_are_the_users(self, commands, mtlkit, arguments, message):
        done = mtlkit(*arguments)
        assert done.exit_code == 2
        assert done.stderr.startswith(f"Usage: mtlkit {arguments[0]} ")
        assert message in done.stderr
        assert "acme-bar" not in done.stderr

    @pytest.mark.parametrize(("how", "code"), [("exit", 42), ("", 7), ("abort", 1), ("interrupt", 130)])
    def test_its_own_exit_codes_pass(self, commands, mtlkit, how, code):
        done = mtlkit("spill", "--how", how)
        assert done.exit_code == code
        assert "acme-bar" not in done.stderr

    def test_is_shown(self, commands, mtlkit):
        done = mtlkit("show", "commands", "drink")
        assert done.exit_code == 0, done.output
        assert "acme-bar:drink  acme-bar 0.4, entry point mtlkit.commands: drink = acme_bar:drink_" in done.stdout
        assert "Drink a bottle." in done.stdout


class TestThatFails:
    @pytest.mark.parametrize(
        ("arguments", "line", "error"),
        [
            (["spill"], "raise ValueError", "ValueError: on the carpet"),
            (["cork", "--bottle", "rum"], "raise RuntimeError", "RuntimeError: corked"),
            (["cellar", "flood"], "[][1]", "IndexError: list index out of range"),
        ],
    )
    def test_is_blamed_with_the_line(self, commands, refused, arguments, line, error):
        (number,) = [n for n, text in enumerate(COMMANDS.splitlines(), 1) if line in text]
        name = arguments[0]
        assert refused(*arguments) == (
            f"Error: The command '{name}' failed (acme-bar 0.4, entry point mtlkit.commands: {name} = "
            f"acme_bar:{name}_): {error} ({commands / 'acme_bar.py'}:{number}).\n"
        )

    def test_by_an_error_of_mtlkit_says_that(self, commands, refused):
        assert refused("spill", "--how", "mtlkit", code=4) == "Error: There is no rum.\n"

    @pytest.mark.parametrize(
        ("module", "reason"),
        [
            ("1 / 0\n", "importing it raised ZeroDivisionError: division by zero ("),
            ("drink_ = 3\n", "what its entry point leads to, 3, has no hook of mtlkit. Write drink = mtlkit.plugin("),
        ],
    )
    @pytest.mark.parametrize("arguments", [[], ["--help"], ["rum"]])
    def test_to_load_is_told_of(self, install, refused, module, reason, arguments):
        entry_points = {"commands": {"drink": "acme_bar:drink_"}}
        install("acme-bar", "0.4", entry_points=entry_points, modules={"acme_bar": module})
        error = refused("drink", *arguments)
        assert "The command 'drink' cannot be loaded (acme-bar 0.4, entry point mtlkit.commands: drink = " in error
        assert reason in error

    def test_harms_no_other(self, commands, install, mtlkit):
        install("zeta", entry_points={"commands": {"burn": "zeta_bar:burn"}}, modules={"zeta_bar": "1 / 0\n"})
        assert mtlkit("drink", "rum").exit_code == 0
        assert "burn" in mtlkit("--help").stdout


class TestNames:
    @pytest.fixture(autouse=True)
    def installed(self, commands, install):
        entry_points = {"commands": {"train": "acme_bar:cork_", "Plugins": "acme_bar:drink_"}}
        install("zeta", "0.3", entry_points=entry_points)

    def test_one_that_ships_stays(self, mtlkit):
        assert mtlkit("train", "--help").stdout.startswith("Usage: mtlkit train [OPTIONS] CONFIG")
        for name in ("Train", "PLUGINS"):  # nor does another case of it lead to the plugin's
            done = mtlkit(name)
            assert (done.exit_code, f"No such command '{name}'" in done.stderr) == (2, True)
        assert "acme_bar" not in sys.modules

    def test_the_other_goes_by_its_qualified_one(self, mtlkit):
        assert mtlkit("zeta:plugins", "rum").stdout == "2 glasses of rum\n"
        listed = mtlkit("--help").stdout.partition("Commands of plugins:\n")[2]
        assert {"zeta:train", "zeta:plugins", "drink"} <= {line.split()[0] for line in listed.splitlines()}

    def test_two_with_one_name(self, install, refused, mtlkit):
        install("omega", "7", entry_points={"commands": {"drink": "acme_bar:spill_"}})
        assert refused("drink", "rum", code=2) == (
            "Error: Ambiguous command 'drink'. Say which one is meant: acme-bar:drink (acme-bar 0.4) and omega:drink "
            "(omega 7).\n"
        )
        assert mtlkit("acme-bar:drink", "rum").exit_code == 0
        assert "omega:drink" in mtlkit("--help").stdout

    @pytest.mark.parametrize("name", ["ambiguous", "drnk", "zeta", ""])
    def test_none_at_all(self, mtlkit, name):
        done = mtlkit(name)
        assert done.exit_code == 2
        assert f"No such command '{name}'" in done.stderr

    def test_one_of_what_is_not_installed(self, refused):
        assert refused("nowhere:drink") == (
            "Error: The command 'nowhere:drink' comes from the distribution 'nowhere', which is not installed. Install "
            "it: pip install nowhere\n"
        )
