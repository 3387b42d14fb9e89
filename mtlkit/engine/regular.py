"""Files that may be a stranger's, opened so that nothing waits, and nothing but a regular file is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from mtlkit.errors import CheckpointError

__all__ = ["open_folder", "open_regular", "read_regular"]


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder that is no symbolic link, and yield a descriptor to open its files by.

    Raises:
        CheckpointError: If it is none.
    """
    with _errors(path):
        _require(path, os.lstat(path), stat.S_ISDIR, "folder")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_regular(path: Path, *, folder: int | None = None, links: bool = False) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Args:
        path: The file.
        folder: The descriptor of the folder that it is in, where that must stay the same one.
        links: Follow symbolic links, where a person named the file.

    Raises:
        CheckpointError: If it is not there, or is no regular file: a folder, a link, a pipe, a device.
    """
    name = path if folder is None else path.name
    with _errors(path):
        # Looked at before it is opened, for to open a device can do something; and again after, for it can be replaced.
        _require(path, os.stat(name, dir_fd=folder, follow_symlinks=links), stat.S_ISREG, "regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
        file = os.fdopen(os.open(name, flags, dir_fd=folder), "rb")
    with file, _errors(path):
        _require(path, os.fstat(file.fileno()), stat.S_ISREG, "regular file")
        yield file


def read_regular(path: Path, limit: int, *, folder: int | None = None) -> bytes:
    """Return what a regular file holds.

    Args:
        path: The file.
        limit: How many bytes it may have.
        folder: The descriptor of the folder that it is in, where that must stay the same one.

    Raises:
        CheckpointError: If it cannot be read, is no regular file, or has more bytes.
    """
    with open_regular(path, folder=folder) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise CheckpointError(f"{path} is too large: it has more than {limit} bytes.")
    return raw


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from error


_KINDS = [
    (stat.S_ISREG, "regular file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
]


def _require(path: Path, status: os.stat_result, is_kind: Callable[[int], bool], wanted: str) -> None:
    if not is_kind(status.st_mode):
        kind = next((name for test, name in _KINDS if test(status.st_mode)), "file of another kind")
        raise CheckpointError(f"{path} is a {kind}, and only a {wanted} is read there.")
