"""Names of components and of distributions, each in one spelling."""

from __future__ import annotations

import unicodedata

from packaging.utils import InvalidName, canonicalize_name

__all__ = ["FILE_SUFFIX", "OWN", "distribution_name", "normal", "objection_to", "split"]

OWN = "mtlkit"
FILE_SUFFIX = ".py"


def normal(name: str) -> str:
    """Return a component's name in the one spelling it is known by: NFC, and without case.

    ``Digit`` and ``digit`` are one name, as are ``STRASSE`` and ``straße``, and both ways to write an ``é``.
    """
    # Twice, since folding the case of a composed letter may leave it decomposed.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def objection_to(name: str) -> str:
    """Return why a component cannot be called that; nothing if it can."""
    if not name.strip():
        return "a name cannot be empty"
    if ":" in name:
        return "a name holds no ':', which stands between a distribution and a name"
    if name != name.strip() or any(c.isspace() or not c.isprintable() for c in name):
        return "a name holds no spaces and no control characters"
    return ""


def distribution_name(text: str) -> str:
    """Return the name of a distribution in the one spelling it is known by; a file's is its own.

    Raises:
        ValueError: If no distribution can be called that.
    """
    if text.endswith(FILE_SUFFIX):
        return text
    try:
        return canonicalize_name(text, validate=True)
    except InvalidName as error:
        raise ValueError(f"no distribution can be called {text!r}") from error


def split(name: str) -> tuple[str, str]:
    """Return (distribution, short name) of a name as a person gives it; no distribution where it names none."""
    given, colon, short = name.partition(":")
    if not colon:
        return "", normal(name)
    try:
        return distribution_name(given), normal(short)
    except ValueError:
        return "", normal(name)  # whole, for no component that can be used has a ':' in its name
