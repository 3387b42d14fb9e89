"""Migrations: how a checkpoint of an older schema is read as one of the newest, one step from each schema to the next.

A step takes plain data and returns plain data: the manifest as its JSON says it, the state as packed JSON (see
:mod:`mtlkit.engine.checkpoint.packing`), the weights by name. Hashes are checked before, on the files as they are. A
step is never changed once its schema was released; the next schema adds one.

Schema 1
    The first.
Schema 2
    The manifest has a seal, and says which mtlkit wrote it and how long each file is. The state has the generators of
    Python and NumPy, and packs numbers that JSON lacks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "Migration"]


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Migration:
    """One step from a schema to the next.

    Attributes:
        manifest: What becomes of the manifest; ValueError if it is none of the older schema.
        state: What becomes of the packed state.
        weights: What becomes of the weights.
    """

    manifest: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    state: Callable[[Any], Any] = _same
    weights: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = _same


def _manifest_1_to_2(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The hashes get a place for sizes beside them; there was no seal, and nothing said who wrote it."""
    if manifest.keys() != {"schema_version", "step", "sha256", "plugins"}:
        raise ValueError(f"it should have schema_version, step, sha256 and plugins, and has {', '.join(manifest):.200}")
    hashes = manifest["sha256"]
    if not isinstance(hashes, dict):
        raise ValueError("its sha256 is not a mapping")  # noqa: TRY004 - of the file, not of an argument
    files = {name: {"bytes": None, "sha256": sha256} for name, sha256 in hashes.items()}
    kept = {"step": manifest["step"], "plugins": manifest["plugins"]}
    return {"schema_version": 2, "mtlkit": None, "files": files, "seal": None, **kept}


def _state_1_to_2(state: Any) -> Any:
    """The generators of Python and NumPy were not in it."""
    state = _numbers_1_to_2(state)
    if isinstance(state, dict) and isinstance(state.get("random"), dict):
        state["random"] = {"python": None, "numpy": None} | state["random"]
    return state


def _numbers_1_to_2(state: Any) -> Any:
    """NaN and infinity were written as words that JSON lacks, and large integers digit by digit."""
    if isinstance(state, dict):
        return {key: _numbers_1_to_2(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_numbers_1_to_2(value) for value in state]
    if isinstance(state, float) and not math.isfinite(state):
        return {"$float": struct.pack(">d", state).hex()}
    if isinstance(state, int) and abs(state) >= 2**63:
        return {"$int": f"{state:x}"}
    return state


MIGRATIONS: Mapping[int, Migration] = MappingProxyType({1: Migration(_manifest_1_to_2, _state_1_to_2)})
"""The step from each older schema to the one after it."""

SCHEMA_VERSION = len(MIGRATIONS) + 1
"""The newest schema, which is the one that is written."""
