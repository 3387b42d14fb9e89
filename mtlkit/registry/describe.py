"""Describe: what a plugin raised or answered, in a line. Asking it may itself raise anything, and may not here."""

from __future__ import annotations

import importlib
from pathlib import Path

__all__ = ["at_fault", "raised", "shown"]

_IMPORTING = ("<frozen ", str(Path(importlib.__file__).parent), str(Path(__file__).parent))
_LONGEST = 80  # characters of a value


def raised(error: BaseException) -> str:
    """Return an exception by its type and what it says: ``ValueError: no such grape``."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - a plugin's own exception may fail at this too
        said = ""
    return f"{type(error).__name__}: {said}".rstrip(".: ")


def at_fault(error: BaseException) -> str:
    """Return an exception as :func:`raised` does, with the file and line that it came from."""
    place = ""
    frame = error.__traceback__
    while frame is not None and not isinstance(error, SyntaxError):  # whose own text says where
        file = frame.tb_frame.f_code.co_filename
        if not file.startswith(_IMPORTING):
            place = f" ({file}:{frame.tb_lineno})"
        frame = frame.tb_next
    return raised(error) + place


def shown(value: object) -> str:
    """Return a value as Python writes it, or as much of that as fits in a line."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a plugin's own object may fail at this
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
