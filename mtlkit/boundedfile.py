"""Reading a file that may be a stranger's: no more of it than is asked for, and nothing that could make one wait."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_bytes"]


def read_bytes(path: Path, most: int) -> bytes:
    """Return what a file holds, but no more than `most` + 1 bytes: one more than `most` says that it is longer.

    A named pipe or a device, of which nobody knows when it ends, is not read.

    Raises:
        OSError: If it cannot be read, or is no file; its ``strerror`` says why.
        ValueError: If no file can be called that.
    """
    # Before it is opened, for to open a device can do something; and again after, for it can be replaced. Without
    # O_NONBLOCK, to open a pipe is to wait for someone who writes to it.
    _require_file(path, path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        _require_file(path, os.fstat(descriptor).st_mode)
        return file.read(most + 1)


def _require_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
        kind = next((name for is_kind, name in kinds if is_kind(mode)), "a device")
        raise OSError(errno.EINVAL, f"It is {kind}, not a file", str(path))
