"""Arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlkit.overrides import apply_overrides
from mtlkit.yamlfile import load

if TYPE_CHECKING:
    from mtlkit.yamlfile import Document

__all__ = ["config_argument", "overrides_argument", "read_config"]

config_argument = click.argument("config", type=click.Path(path_type=Path))
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def read_config(config: Path, overrides: tuple[str, ...]) -> Document:
    """Read a run configuration and lay the overrides over it."""
    return apply_overrides(load(config), overrides)
