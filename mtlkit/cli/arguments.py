"""Arguments that several commands take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mtlkit.overrides import apply_overrides
from mtlkit.registry import Registry
from mtlkit.yamlfile import load

if TYPE_CHECKING:
    from mtlkit.yamlfile import Document

__all__ = ["Discover", "config_argument", "overrides_argument", "plugin_options", "plugin_options_given", "read_config"]

Discover = functools.partial[Registry]

config_argument = click.argument("config", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def read_config(config: Path, overrides: tuple[str, ...]) -> Document:
    """Read a run configuration and lay the overrides over it."""
    return apply_overrides(load(config), overrides)


def plugin_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--plugin`` and ``--no-plugins``, and a function ``discover`` that finds what they leave."""

    @click.option(
        "--plugin",
        "files",
        multiple=True,
        metavar="FILE.py",
        type=click.Path(path_type=Path),
        help="A Python file that is a plugin too; may be given more than once.",
    )
    @click.option("--no-plugins", is_flag=True, help="Use nothing that is installed beside mtlkit itself.")
    @functools.wraps(function)
    def wrapped(*args: Any, files: tuple[Path, ...], no_plugins: bool, **kwargs: Any) -> None:
        function(*args, discover=functools.partial(Registry.discover, plugins=not no_plugins, files=files), **kwargs)

    return wrapped


def plugin_options_given() -> list[str]:
    """Return the options of :func:`plugin_options` as they were given to the command that runs, to be given again."""
    given = click.get_current_context().params
    files = [word for path in given.get("files", ()) for word in ("--plugin", str(path))]
    return [*files, *(["--no-plugins"] if given.get("no_plugins") else [])]
