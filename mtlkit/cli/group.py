"""The group of all commands: those that ship, and those of plugins, which are imported when they are run."""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from mtlkit.cli.output import Output
from mtlkit.errors import MtlkitError, PluginError
from mtlkit.registry import Record, Registry
from mtlkit.registry.describe import at_fault
from mtlkit.registry.names import normal
from mtlkit.summaries import summary

__all__ = ["Group"]


class Group(click.Group):
    """Commands by name. A plugin's command never takes the name of one that ships: it goes by its qualified one."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the command line, up to the command's name."""
        with _ctrl_c():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _ctrl_c():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one that ships, or else a plugin's, which imports that plugin alone."""
        shipped = super().get_command(ctx, cmd_name)
        if shipped is not None or normal(cmd_name) in self.commands:
            return shipped
        try:
            registry = Registry.discover()
            if ":" not in cmd_name and normal(cmd_name) not in {each.name for each in registry.records("commands")}:
                return None  # click says that there is no such command
            return _Guarded(registry, registry.find("commands", cmd_name))
        except MtlkitError as error:
            _fail(error)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands that ship, then those of plugins, none of which is imported."""
        super().format_commands(ctx, formatter)
        try:
            registry = Registry.discover()
        except MtlkitError:
            return  # what is wrong with the environment is told of by what needs it
        rows = [(self._name(registry, record), summary(record)) for record in registry.usable("commands")]
        if rows:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(rows)

    def _name(self, registry: Registry, record: Record) -> str:
        return record.qualified if record.name in self.commands else registry.name_of(record)


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """End with the exit code of Ctrl-C where it comes outside of a command, or while one tells of another."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


class _Guarded(click.Command):
    """A plugin's command: loaded when it is run, and blamed for what goes wrong then."""

    def __init__(self, registry: Registry, record: Record) -> None:
        super().__init__(record.name, add_help_option=False)
        self._registry = registry
        self._record = record

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Load the command, and let it read its own arguments."""
        try:
            command: click.Command = self._registry.load(self._record)
        except PluginError as error:
            _fail(error)
        guarded = copy.copy(command)  # the same command in all but this, so that its help and its errors are its own

        def invoke(ctx: click.Context) -> Any:
            with self._blame():
                return command.invoke(ctx)

        setattr(guarded, "invoke", invoke)  # noqa: B010 - which no type checker would have assigned to
        with self._blame():
            return guarded.make_context(info_name, args, parent, **extra)

    @contextmanager
    def _blame(self) -> Iterator[None]:
        """Tell of what the plugin raises by its name; what click raises is for click."""
        try:
            yield
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except MtlkitError as error:
            _fail(error)
        except Exception as error:  # noqa: BLE001 - a plugin raises whatever it raises
            record = self._record
            _fail(PluginError(f"The command '{record.name}' failed ({record.provider}): {at_fault(error)}."))


def _fail(error: MtlkitError) -> NoReturn:
    Output(as_json=False, quiet=False).fail(error)
    sys.exit(error.exit_code)
