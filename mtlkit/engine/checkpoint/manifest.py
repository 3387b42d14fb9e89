"""The manifest: what a checkpoint says of itself, and the hashes that vouch for its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["SCHEMA_VERSION", "file_hash"]

SCHEMA_VERSION = 1


def file_hash(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
