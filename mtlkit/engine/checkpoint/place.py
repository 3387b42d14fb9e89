"""How a whole new folder takes the place of an old one, so that one of the two is there whenever it is cut off."""

from __future__ import annotations

import shutil
from pathlib import Path

from mtlkit.engine.storage import sync

__all__ = ["recover", "replace"]


def replace(folder: Path, temporary: Path) -> None:
    """Put a whole new folder in the place of an old one; wherever this is cut off, one of the two is left."""
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
    """Put an older checkpoint back that was moved away for a newer one which never came."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
