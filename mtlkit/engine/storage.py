"""Files that are either wholly there or not there at all, and errors that name them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtlkit.errors import StorageError

__all__ = [
    "about",
    "put_text",
    "storage_errors",
    "sync",
    "temporary_of",
    "write_file",
    "write_text",
]


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn an OSError into a StorageError that says what could not be done, to which file, and why."""
    try:
        yield
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        raise StorageError(f"Cannot {doing}{name}: {error.strerror or error}.") from error


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Let an OSError that names no file name this one."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


def sync(path: Path) -> None:
    """Make the operating system put a file, or the entries of a folder, on the disk.

    Raises:
        OSError: If it cannot.
    """
    with about(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, content: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write a file piece by piece, put it on the disk, and return its size in bytes and its SHA-256 in hexadecimal.

    Raises:
        OSError: If it cannot be written; a part of it may be there.
    """
    digest, size = hashlib.sha256(), 0
    with about(path), path.open("wb", buffering=0) as file:
        for piece in content:
            digest.update(piece)
            rest = memoryview(piece)
            size += rest.nbytes
            while rest:
                rest = rest[file.write(rest) :]  # where the disk is nearly full, a part of it is written
        os.fsync(file.fileno())
    return size, digest.hexdigest()


def temporary_of(path: Path) -> Path:
    """Return the sibling that is written to before it takes a file's or a folder's place."""
    return path.with_name(f".{path.name}.tmp")


def put_text(path: Path, text: str) -> None:
    """Write a whole file beside `path`, then put it in its place.

    Raises:
        OSError: If it cannot be written; an older one is then untouched.
    """
    temporary = temporary_of(path)
    try:
        write_file(temporary, [text.encode()])
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a whole file beside `path`, then put it in its place.

    Raises:
        StorageError: If it cannot be written; an older one is then untouched.
    """
    with storage_errors("write"):
        put_text(path, text)
