"""The manifest: what a checkpoint says of itself, and the sizes and hashes that vouch for its files.

::

    {
      "schema_version": 2,
      "mtlkit": "0.1.0",
      "step": 100,
      "files": {"weights.safetensors": {"bytes": 660, "sha256": "d5937a4c..."}, ...},
      "plugins": [...],
      "seal": "8a3ce64c..."
    }

The seal vouches for the manifest itself: it is the SHA-256 of the file's bytes with zeros in its own place, and it ends
the file. It tells damage from what was written, not a forger from an author: whoever can change the files can seal
them again, so what the manifest vouches for is still read as a stranger's. ``schema_version``, ``mtlkit`` and the seal
stay where they are in every later schema, so that a newer checkpoint can say which mtlkit it needs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from mtlkit._version import __version__
from mtlkit.engine.checkpoint.migrations import MIGRATIONS, SCHEMA_VERSION
from mtlkit.engine.sealing import is_sealed, sealed_json
from mtlkit.errors import CheckpointError
from mtlkit.plainjson import loads

__all__ = ["FILES", "MAX_BYTES", "SCHEMA_VERSION", "Manifest", "Vouched", "stream_hash"]

FILES = ("weights.safetensors", "state.safetensors", "state.json")
"""The files that a checkpoint can hold beside its manifest: the weights always, and the other two or neither."""

MAX_BYTES = 1_000_000
"""How long a manifest can be: it names three files and some plugins."""

_KEYS = {"schema_version", "mtlkit", "step", "files", "plugins", "seal"}
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Vouched:
    """What a manifest says of a file.

    Attributes:
        bytes: Its size; None where the schema does not tell it.
        sha256: Its SHA-256 in hexadecimal.
    """

    bytes: int | None
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: The step it was taken at.
        files: What it says of each of its files, by name.
        plugins: The plugins that took part.
        mtlkit: The version of mtlkit that wrote it; None where the schema does not tell it.
        schema_version: The schema that its files are in.
    """

    step: int
    files: Mapping[str, Vouched]
    plugins: Sequence[Mapping[str, Any]] = ()
    mtlkit: str | None = __version__
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Return the manifest as the file that holds it, in the newest schema."""
        plain = {
            "schema_version": SCHEMA_VERSION,
            "mtlkit": self.mtlkit,
            "step": self.step,
            "files": {name: asdict(vouched) for name, vouched in sorted(self.files.items())},
            "plugins": list(self.plugins),
        }
        return sealed_json(plain).encode()

    @classmethod
    def from_bytes(cls, raw: bytes, path: Path) -> Manifest:
        """Return what a manifest of any schema up to the newest says.

        Args:
            raw: What the file holds.
            path: What to call it in errors.

        Raises:
            CheckpointError: If it is damaged, of a newer schema, or no manifest.
        """
        try:
            plain = loads(raw)
            version = _version(plain)
        except ValueError as error:
            raise CheckpointError(f"{path} is no manifest: {error}.") from error
        # A newer schema's seal is looked at too: what is damaged is not sent to a newer mtlkit.
        if "seal" in plain and not is_sealed(raw):
            raise CheckpointError(f"{path} is damaged: its seal is not the SHA-256 of the rest of it.")
        if version > SCHEMA_VERSION:
            raise CheckpointError(_newer(path, version, plain.get("mtlkit")))
        try:
            for older in range(version, SCHEMA_VERSION):
                plain = MIGRATIONS[older].manifest(plain)
            return _typed(plain, version)
        except ValueError as error:
            raise CheckpointError(f"{path} is no manifest of schema version {version}: {error}.") from error


def stream_hash(file: BufferedReader) -> str:
    """Return the SHA-256 of what is left of an open file, in hexadecimal."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _version(plain: Any) -> int:
    if not isinstance(plain, dict):
        raise ValueError("it is not a mapping")  # noqa: TRY004 - of the file, not of an argument
    version = plain.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"its schema_version is {version!r:.50}")
    return version


def _newer(path: Path, version: int, mtlkit: object) -> str:
    """Say what is needed to read a newer checkpoint. The version is checked: a command is made of it."""
    reads = f"{path} has schema version {version}, and mtlkit {__version__} reads versions 1 to {SCHEMA_VERSION}."
    try:
        needed = Version(mtlkit) if isinstance(mtlkit, str) else None
    except InvalidVersion:
        needed = None
    if needed is None:
        return f"{reads} It does not say which mtlkit wrote it; a newer one is needed: pip install --upgrade mtlkit."
    return f"{reads} It needs mtlkit {needed}, which wrote it, or a newer one: pip install 'mtlkit>={needed}'."


def _typed(plain: Mapping[str, Any], version: int) -> Manifest:
    """Return a manifest of the newest schema that is wholly what it should be.

    Raises:
        ValueError: If it is not, saying in what.
    """
    if plain.keys() != _KEYS:
        different = ", ".join(sorted(map(repr, plain.keys() ^ _KEYS)))
        raise ValueError(f"it should have {', '.join(sorted(_KEYS))}, and differs in {different:.200}")
    mtlkit, step, files, plugins = (plain[key] for key in ("mtlkit", "step", "files", "plugins"))
    if not (mtlkit is None or isinstance(mtlkit, str)):
        raise ValueError(f"its mtlkit is {mtlkit!r:.50}")
    if type(step) is not int or not 0 <= step < 2**63:
        raise ValueError(f"its step is {step!r:.50}")
    if not isinstance(files, dict):
        raise ValueError("its files are not a mapping")  # noqa: TRY004
    for name in files:
        if name not in FILES:
            raise ValueError(f"it names the file {name!r:.100}, and a checkpoint has {', '.join(FILES)}")
    if "weights.safetensors" not in files:
        raise ValueError("it does not vouch for weights.safetensors")
    if ("state.json" in files) != ("state.safetensors" in files):
        raise ValueError("it vouches for one of state.json and state.safetensors, and not for the other")
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
        raise ValueError("its plugins are not a list of mappings")
    return Manifest(step, {name: _vouched(name, each) for name, each in files.items()}, plugins, mtlkit, version)


def _vouched(name: str, plain: Any) -> Vouched:
    if not isinstance(plain, dict) or plain.keys() != {"bytes", "sha256"}:
        raise ValueError(f"what it says of {name} is not bytes and sha256")
    size, sha256 = plain["bytes"], plain["sha256"]
    if not (size is None or (type(size) is int and 0 <= size < 2**63)):
        raise ValueError(f"the size of {name} is {size!r:.50}")
    if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
        raise ValueError(f"the SHA-256 of {name} is {sha256!r:.80}")
    return Vouched(size, sha256)
