"""What every command promises: a name that can be typed, help, and a start without torch."""

from __future__ import annotations

import click
from click.testing import CliRunner

from mtlkit.testing import isolated
from mtlkit.testing.checks import Checks, require
from mtlkit.testing.subject import Subject

__all__ = ["CHECKS"]

CHECKS = Checks()


@CHECKS
def is_a_click_command(subject: Subject) -> None:
    """It is a click command."""
    _ = _command(subject)


@CHECKS
def name_can_be_typed(subject: Subject) -> None:
    """Its name is a word, and no option."""
    name = subject.record.name if subject.record else subject.name
    require(
        name and not any(character.isspace() for character in name) and not name.startswith("-"),
        f"The command is called {name!r}",
        "It is what stands behind 'mtlkit': a word without spaces that does not begin with '-'. The entry point names "
        "it.",
    )


@CHECKS
def help_is_shown(subject: Subject) -> None:
    """It shows help when it is asked for --help."""
    done = CliRunner().invoke(_command(subject), ["--help"], prog_name="mtlkit")
    raised = done.exception if done.exception and not isinstance(done.exception, SystemExit) else None
    outcome = f"raised {type(raised).__name__}: {raised}" if raised else f"ended with the exit code {done.exit_code}"
    require(
        done.exit_code == 0, f"Asked for --help, it {outcome}", "click's own --help works: nothing is to replace it."
    )
    require(done.output.strip(), "Asked for --help, it printed nothing", "click's own --help works: do not replace it.")


@CHECKS
def leaves_torch_unimported(subject: Subject) -> None:
    """Its import leaves torch alone, so that its help answers at once."""
    isolated.require_torch_unimported(subject)


def _command(subject: Subject) -> click.Command:
    component: object = subject.component
    require(
        isinstance(component, click.Command),
        f"{subject.name} is {type(component).__name__} {component!r}, which is no click command",
        "Write @click.command() above the function, and hand what that makes to mtlkit.plugin().",
    )
    assert isinstance(component, click.Command)  # noqa: S101 - for the type checker
    return component
