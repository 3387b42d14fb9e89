"""What a run may be called: its name is a folder's, on any file system that the folder may be copied to."""

from __future__ import annotations

import re
import reprlib

__all__ = ["MAX_LENGTH", "free_name", "why_not"]

MAX_LENGTH = 80

# Windows takes these for devices, in capitals or not and whatever follows a dot:
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def why_not(name: str) -> str | None:
    """Return why a run cannot be called so, without a full stop; None if it can."""
    if not re.fullmatch(rf"[A-Za-z0-9._-]{{1,{MAX_LENGTH}}}", name):
        return (
            f"a run's name has 1 to {MAX_LENGTH} letters, digits, '.', '_' or '-', and other words fit in run.title; "
            f"received {reprlib.repr(name)}"
        )
    if name.startswith("."):
        return f"no run can be called {name!r}: it begins with a dot, as hidden and temporary files do"
    if name.endswith("."):
        return f"no run can be called {name!r}: it ends in a dot, which some file systems leave out"
    if _DEVICE.fullmatch(name):
        device = name.partition(".")[0]
        return f"no run can be called {name!r}: {device.upper()} is a device on some systems, and no folder there"
    return None


def free_name(name: str, number: int) -> str:
    """Return the name with a number after it, as long as a name may be."""
    suffix = f"-{number}"
    return name[: MAX_LENGTH - len(suffix)] + suffix
