"""Files that are either wholly there or not there at all, and errors that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtlkit.errors import StorageError
from mtlkit.plainjson import dumps

__all__ = ["storage_errors", "sync", "write_json", "write_text"]


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what could not be done, to which file, and why."""
    try:
        yield
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise StorageError(f"Cannot {doing}{name}: {error.strerror or error}.") from error


def sync(path: Path) -> None:
    """Make the operating system put a file, or the entries of a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a whole file beside `path`, then put it in its place."""
    with storage_errors("write"):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def write_json(path: Path, data: object) -> None:
    """Write a whole JSON file."""
    write_text(path, dumps(data, indent=2) + "\n")
