"""JSON that every reader takes: NaN and infinity, which JSON lacks, are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

__all__ = ["MAX_DEPTH", "dumps", "loads"]

MAX_DEPTH = 50
"""How many levels of mappings and lists are read."""


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return plain data as JSON."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def loads(raw: bytes, *, constants: bool = False) -> Any:
    """Return the plain data of a JSON text, which may be a stranger's.

    Args:
        raw: The text in UTF-8.
        constants: Take NaN, Infinity and -Infinity for numbers, as Python writes them.

    Raises:
        ValueError: If it is not JSON, or names a key twice in one mapping, or is too deep to be read.
    """
    refused: dict[str, Any] = {} if constants else {"parse_constant": _refuse_constant}
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_mapping, **refused)
        _require_depth(data, MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    return data


def _require_depth(data: Any, left: int) -> None:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    for each in inner:
        if isinstance(each, dict | list):
            if left == 1:
                raise ValueError(f"it is too deep: it has more than {MAX_DEPTH} levels")
            _require_depth(each, left - 1)


def _mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"it has the key {key!r:.100} twice")
        mapping[key] = value
    return mapping


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
