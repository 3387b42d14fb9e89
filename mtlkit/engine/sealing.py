"""Seals: a text that carries the SHA-256 of itself, so that what is changed anywhere in it shows.

A seal is hexadecimal, and is made with zeros in its own place: the last value of a JSON mapping, or the first line of a
YAML file. It tells damage from what was written, not a forger from an author: whoever can change a file can seal it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from mtlkit.plainjson import dumps

__all__ = ["is_broken", "is_sealed", "sealed_json", "sealed_yaml"]

_ZEROS = "0" * 64
_PLACE = re.compile(rb'\A# seal: ([0-9a-f]{64})\n|"seal": "([0-9a-f]{64})"\n}\n\Z')


def sealed_json(plain: Mapping[str, Any]) -> str:
    """Return plain data as JSON with its seal behind them, by the key ``seal``."""
    return _seal(dumps({**plain, "seal": _ZEROS}, indent=2) + "\n")


def sealed_yaml(text: str) -> str:
    """Return a YAML text with its seal before it, in a comment."""
    return _seal(f"# seal: {_ZEROS}\n{text}")


def is_sealed(raw: bytes) -> bool:
    """Return whether a text has a seal that is its own."""
    found = _PLACE.search(raw)
    return found is not None and found[found.lastindex or 0] == _hash(raw, found).encode()


def is_broken(raw: bytes) -> bool:
    """Return whether a text has a seal that is not its own; one without any may be older than seals are."""
    return (raw.startswith(b"# seal") or b'"seal"' in raw[-200:]) and not is_sealed(raw)


def _seal(text: str) -> str:
    raw = text.encode()
    found = _PLACE.search(raw)
    if found is None:
        raise AssertionError("a text was to be sealed, and has no place for it")
    start, end = found.span(found.lastindex or 0)
    return (raw[:start] + _hash(raw, found).encode() + raw[end:]).decode()


def _hash(raw: bytes, found: re.Match[bytes]) -> str:
    start, end = found.span(found.lastindex or 0)
    return hashlib.sha256(raw[:start] + _ZEROS.encode() + raw[end:]).hexdigest()
