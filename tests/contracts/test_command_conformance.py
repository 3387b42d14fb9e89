"""The kit finds every defect that a command may have."""

from __future__ import annotations

import click
import pytest

from mtlkit.registry import Record
from mtlkit.testing import Nonconformance, checks_of
from mtlkit.testing.commands import CHECKS
from mtlkit.testing.subject import Subject

BY_NAME = {check.name: check for check in CHECKS}

HELLO = '''
"""A greeting."""
import click
import mtlkit

@click.command()
@click.option("--name", default="world")
def hello(name):
    """Greet somebody."""
    import torch

command = mtlkit.plugin(hello)
'''
GROUP = '''
import click
import mtlkit

@click.group()
def greet():
    """Greet in several ways."""

@greet.command()
def warmly():
    """Greet warmly."""

command = mtlkit.plugin(greet)
'''
HELPLESS = """
class Helpless(click.Command):
    def get_help(self, ctx):
        return {}["grapes"]

"""
# check, the module, what is said of it, and the checks that cannot but fail with it
DEFECTS = [
    (
        "is_a_click_command",
        HELLO.replace("mtlkit.plugin(hello)", "hello"),
        r"cannot be loaded .* has no hook of mtlkit\. Write hello = mtlkit\.plugin\(your_click_command\)",
    ),
    (
        "help_is_shown",
        HELLO.replace("    import torch", "").replace(
            "@click.command()", "@click.command(add_help_option=False, context_settings={'ignore_unknown_options': 1})"
        ),
        "Asked for --help, it ended with the exit code 2",
    ),
    (
        "help_is_shown",
        HELLO.replace("@click.command()", f"{HELPLESS}@click.command(cls=Helpless)"),
        "Asked for --help, it raised KeyError: 'grapes'",
    ),
    (
        "help_is_shown",
        HELLO.replace("@click.command()", f"{HELPLESS}@click.command(cls=Helpless)").replace('{}["grapes"]', '""'),
        "Asked for --help, it printed nothing",
    ),
    ("leaves_torch_unimported", f"{HELLO}import torch\n", "imports torch. .*inside the functions"),
]


@pytest.fixture
def provide(install):
    """Return a function that installs the distribution acme with the command hello, and returns it as a subject."""

    def provided(module):
        install(
            "acme",
            entry_points={"commands": {"hello": "hello:command"}},
            modules={"hello": module},
            requires=["mtlkit>=0.1,<0.2"],
        )
        return Subject.of("acme:hello")

    return provided


def failures(subject):
    found = {}
    for check in checks_of("commands"):
        try:
            check.run(subject)
        except Nonconformance as failure:
            found[check.name] = str(failure)
    return found


@pytest.mark.parametrize(("name", "module", "message"), DEFECTS)
def test_a_defect_is_found(provide, name, module, message):
    subject = provide(module)
    with pytest.raises(Nonconformance, match=message):
        BY_NAME[name].run(subject)
    if name != "is_a_click_command":  # without which there is little to be tested
        assert failures(subject).keys() == {name}


@pytest.mark.parametrize("name", ["say hello", "--hello", ""])
def test_a_name_that_cannot_be_typed_is_found(name):
    subject = Subject("commands", name, record=Record("commands", name, "acme", "1.0", "hello:command"))
    with pytest.raises(Nonconformance, match=f"The command is called '{name}'"):
        BY_NAME["name_can_be_typed"].run(subject)


def test_every_check_has_a_defect():
    assert {name for name, *_ in DEFECTS} | {"name_can_be_typed"} == BY_NAME.keys()


@pytest.mark.parametrize("module", [HELLO, GROUP], ids=["command", "group"])
def test_what_is_sound_passes(provide, module):
    assert failures(provide(module)) == {}


def test_help_needs_no_short_help(provide):
    subject = provide(HELLO.replace('"""Greet somebody."""', "").replace("command()", "command(help='Greet.')"))
    assert isinstance(subject.component, click.Command)
    assert failures(subject) == {}
