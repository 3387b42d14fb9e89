"""Reading the small files of a run folder that may be anybody's, so far as they say something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtlkit.errors import ConfigError
from mtlkit.plainjson import loads
from mtlkit.yamlfile import parse

__all__ = ["bytes_of", "checkpoints", "is_run", "last_records", "read_json", "read_sections"]

_MOST = 1_000_000
_TAIL = 256_000  # bytes from the end of the records: a line of a hundred tasks has some 20,000


def is_run(folder: Path) -> bool:
    """Return whether a folder is one that a run makes."""
    return not folder.is_symlink() and (folder / "config.yaml").is_file()


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping that a JSON file holds; an empty one where it holds none.

    Raises:
        ValueError: If it is there, and cannot be read.
    """
    raw = _read(path, _MOST)
    if raw is None:
        return {}
    try:
        data = loads(raw)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds no mapping")  # noqa: TRY004 - of what it holds, not of an argument
    return data


def last_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the last lines of a file of records, the newest first; one that is cut or damaged is passed over."""
    raw = _read(path, _TAIL, from_end=True) or b""
    for line in reversed(raw.splitlines()):
        try:
            record = loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def read_sections(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return some sections of a configuration, as they stand there. To parse all of it takes ten times as long.

    Raises:
        ValueError: If it is no YAML.
    """
    raw = _read(path, _MOST) or b""
    text = raw.decode()
    kept: list[str] = []
    is_kept = False
    for line in text.splitlines(keepends=True):
        if line.strip() and not line.startswith((" ", "#", "-")):
            is_kept = line.startswith(tuple(f"{name}:" for name in names))
        if is_kept:
            kept.append(line)
    try:
        data = parse("".join(kept), path.name).data if kept else parse(text, path.name).data
    except ConfigError as error:
        raise ValueError(str(error)) from error
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds no mapping")  # noqa: TRY004 - of what it holds, not of an argument
    return {name: data[name] for name in names if isinstance(data.get(name), dict)}


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints of a run, whole or not, by their steps."""
    place = folder / "checkpoints"
    try:
        names = [] if place.is_symlink() else os.listdir(place)  # noqa: PTH208 - names are all that is needed
    except OSError:
        return {}
    steps = {int(name[5:]): place / name for name in names if name.startswith("step-") and name[5:].isdecimal()}
    return dict(sorted(steps.items()))


def bytes_of(path: Path) -> int:
    """Return how much room a file or a folder takes; what goes away meanwhile takes none."""
    total, waiting = 0, [path]
    while waiting:
        each = waiting.pop()
        try:
            if each.is_dir() and not each.is_symlink():
                waiting += each.iterdir()
            else:
                total += each.lstat().st_size
        except OSError:
            continue
    return total


def _read(path: Path, most: int, *, from_end: bool = False) -> bytes | None:
    """Return what a file holds, or the end of it; None where there is no file, through a link there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if from_end:
                file.seek(max(0, size - most))
            elif size > most:
                raise ValueError(f"{path.name} has more than {most} bytes")
            return file.read(most)
    except OSError:
        return None
