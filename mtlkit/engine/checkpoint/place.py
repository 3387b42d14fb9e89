"""How a whole new folder takes the place of an old one, so that one of the two is there whenever it is cut off."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mtlkit.engine.storage import sync, temporary_of

__all__ = ["clear", "discard", "recover", "replace", "standing"]

_LEFT = re.compile(r"\.(?P<name>step-\d+|best)\.(?P<kind>tmp|old)")


def replace(folder: Path, temporary: Path) -> None:
    """Put a whole new folder in the place of an old one; wherever this is cut off, one of the two is left.

    Raises:
        OSError: If it cannot be done; the old one is then in its place.
    """
    old = _old(folder)
    recover(folder)
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    except BaseException:
        recover(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put an older checkpoint back that was moved away for a newer one which never came.

    Raises:
        OSError: If it cannot be put back.
    """
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def standing(folder: Path) -> Path:
    """Return where a checkpoint stands just now: in its place, or aside, where a newer one is about to take it.

    For who reads without the lock of the run: nothing is moved under the hands of the process that writes.
    """
    old = _old(folder)
    return old if not folder.exists() and old.exists() else folder


def clear(parent: Path) -> None:
    """Clear away what a process that was killed left of the checkpoints in a folder, and put back what it moved away.

    Raises:
        OSError: If an older checkpoint cannot be put back.
    """
    for path in sorted(parent.glob(".*")):
        left = _LEFT.fullmatch(path.name)
        if left and left["kind"] == "tmp":
            shutil.rmtree(path, ignore_errors=True)
        elif left:
            recover(parent / left["name"])


def discard(folder: Path) -> None:
    """Remove a checkpoint: wherever this is cut off, it is there as a whole, or not at all.

    Raises:
        OSError: If it cannot be removed; it is then still there.
    """
    temporary = temporary_of(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
