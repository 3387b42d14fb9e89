"""What to say when a run cannot be written to: what is needed, where, and how to go on then."""

from __future__ import annotations

import errno
import shlex
import shutil
from pathlib import Path

__all__ = ["NO_ROOM", "what_is_needed"]

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that room on the disk, or in its quota, would mend."""

_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "Make room there"),
    errno.EFBIG: "Allow larger files (ulimit -f)",
    **dict.fromkeys([errno.EROFS, errno.EACCES, errno.EPERM], "Make it writable"),
    **dict.fromkeys([errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV, errno.ENXIO], "Put it back"),
    errno.EIO: "Have the disk looked at",
}


def what_is_needed(doing: str, run: Path, error: OSError, needed: int, saved: str) -> str:
    """Say that a run cannot be written to, and what would let it go on.

    Args:
        doing: What could not be done.
        run: The run's folder.
        error: Why.
        needed: How many bytes it takes.
        saved: What is said of what was saved before.
    """
    parts = [f"Cannot {doing}: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}."]
    if error.errno in NO_ROOM:
        parts.append(f"It takes {size(needed)}, and {_free(run)}.")
    if not run.is_dir():
        parts.append("The run's folder is gone, with all that was in it: put it back, or start the run again.")
        return " ".join(parts)
    parts.append(saved)
    again = shlex.join(["mtlkit", "resume", str(run)])
    parts.append(f"{_REMEDIES.get(error.errno or 0, 'Mend that')}, then go on with: {again}")
    return " ".join(parts)


def size(count: int) -> str:
    """Return a number of bytes in units that are read at a glance."""
    for unit, each in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= each:
            return f"{count / each:.1f} {unit}"
    return f"{count} bytes"


def _free(run: Path) -> str:
    try:
        return f"{size(shutil.disk_usage(run).free)} are free on the disk of {run}"
    except OSError as error:
        return f"how much is free on the disk of {run} cannot be told: {error.strerror}"
