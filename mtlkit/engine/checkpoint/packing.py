"""Nested state as plain JSON beside a flat mapping of tensors, and back, bit for bit.

JSON has no tuples, no tensors, no NaN and infinity, no dicts with keys other than strings, and in most readers no large
integers. Each is written as a mapping with one key that starts with '$'::

    {"$tensor": "0"}                    the tensor of this name
    {"$tuple": [1, 2]}                  (1, 2)
    {"$items": [[0, "a"], [1, "b"]]}    {0: "a", 1: "b"}; also where a string key starts with '$'
    {"$float": "7ff8000000000000"}      a float that is not finite, by its bits
    {"$int": "-10000000000000000"}      an integer of more than 64 bits, in base 16
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["MAX_DEPTH", "pack", "unpack"]

MAX_DEPTH = 50
"""How many levels the JSON may have: as many as a configuration. A tuple takes two, a dict of other keys three."""

_LARGE = 2**63
_MAX_DIGITS = 20_000  # of a large integer, in base 16
_FLOAT = re.compile(r"[0-9a-f]{16}")
_INT = re.compile(rf"-?[0-9a-f]{{16,{_MAX_DIGITS}}}")


def pack(value: Any, tensors: dict[str, Tensor], *, level: int = 1) -> Any:
    """Return nested dicts, lists and tuples as what JSON can hold, and put their tensors into `tensors` by name.

    Raises:
        TypeError: If something in it can be held neither as JSON nor as a tensor.
        ValueError: If it is nested too deep, or an integer is too large.
    """
    packed = _pack(value, tensors, level)
    if level + _deeper(packed) > MAX_DEPTH:
        raise ValueError(f"A state is nested too deep for a checkpoint, whose JSON has at most {MAX_DEPTH} levels.")
    return packed


def unpack(value: Any, tensors: Mapping[str, Tensor], *, level: int = 1) -> Any:
    """Return what :func:`pack` was given.

    Raises:
        ValueError: If it is nothing that :func:`pack` returns, or a tensor is not there.
    """
    if level > MAX_DEPTH and isinstance(value, dict | list):
        raise ValueError(f"it is too deep: it has more than {MAX_DEPTH} levels")
    if isinstance(value, list):
        return [unpack(item, tensors, level=level + 1) for item in value]
    if isinstance(value, dict):
        kind = next((key for key in value if key.startswith("$")), None)
        if kind is None:
            return {key: unpack(item, tensors, level=level + 1) for key, item in value.items()}
        if len(value) != 1:
            raise ValueError(f"{kind!r:.50} stands beside other keys")
        return _unpack_marked(kind, value[kind], tensors, level)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    if isinstance(value, int) and abs(value) >= _LARGE:
        raise ValueError("a number has more than 64 bits")
    return value


def _pack(value: Any, tensors: dict[str, Tensor], level: int) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: pack(item, tensors, level=level + 1) for key, item in value.items()}
        inside = level + 3
        items = value.items()
        return {
            "$items": [[pack(key, tensors, level=inside), pack(item, tensors, level=inside)] for key, item in items]
        }
    if isinstance(value, tuple):
        return {"$tuple": [pack(item, tensors, level=level + 2) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors, level=level + 1) for item in value]
    return _pack_plain(value)


def _deeper(packed: Any) -> int:
    """Return how far below its own level a packed value reaches by itself, without what it holds; -1 for a leaf."""
    if isinstance(packed, dict):
        return 2 if "$items" in packed else 1 if "$tuple" in packed else 0
    return 0 if isinstance(packed, list) else -1


def _pack_plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
    if isinstance(value, int):
        if abs(value) < _LARGE:
            return value
        digits = f"{value:x}"
        if not _INT.fullmatch(digits):
            raise ValueError(f"An integer of {value.bit_length()} bits is too large for a checkpoint.")
        return {"$int": digits}
    raise TypeError(
        f"A checkpoint cannot hold a {type(value).__name__}: {value!r:.100}. It holds tensors, numbers, strings and "
        "None, in dicts, lists and tuples."
    )


def _unpack_marked(kind: str, value: Any, tensors: Mapping[str, Tensor], level: int) -> Any:
    """Return what a mapping stands for that has the one key `kind`."""
    if kind == "$tensor" and isinstance(value, str):
        if value not in tensors:
            raise ValueError(f"the tensor {value!r:.50} is not there")
        return tensors[value]
    if kind == "$tuple" and isinstance(value, list):
        return tuple(unpack(item, tensors, level=level + 2) for item in value)
    if kind == "$items" and isinstance(value, list):
        return _unpack_items(value, tensors, level + 3)
    if kind == "$float" and isinstance(value, str) and _FLOAT.fullmatch(value):
        number = struct.unpack(">d", bytes.fromhex(value))[0]
        if not math.isfinite(number):
            return number
    if kind == "$int" and isinstance(value, str) and _INT.fullmatch(value):
        integer = int(value, 16)
        if abs(integer) >= _LARGE:
            return integer
    raise ValueError(f"{kind!r:.50} is followed by {value!r:.50}")


def _unpack_items(items: list[Any], tensors: Mapping[str, Tensor], level: int) -> dict[Any, Any]:
    unpacked = {}
    for item in items:
        if not isinstance(item, list) or len(item) != 2:  # noqa: PLR2004 - a key and a value
            raise ValueError(f"'$items' holds {item!r:.50}")
        key = unpack(item[0], tensors, level=level)
        if not _is_key(key):
            raise ValueError(f"a key is {key!r:.50}")
        if key in unpacked:
            raise ValueError(f"it has the key {key!r:.50} twice")
        unpacked[key] = unpack(item[1], tensors, level=level)
    return unpacked


def _is_key(key: Any) -> bool:
    return (
        all(map(_is_key, key)) if isinstance(key, tuple) else key is None or isinstance(key, bool | int | float | str)
    )
