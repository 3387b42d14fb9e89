"""A file of safetensors that may be a stranger's: checked before it is parsed."""

from __future__ import annotations

import hashlib
import math
import os
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from mtlkit.engine.regular import open_regular
from mtlkit.errors import CheckpointError
from mtlkit.memory import total
from mtlkit.plainjson import loads

__all__ = ["MAX_HEADER", "parse_tensors", "read_tensors", "read_whole", "require_room"]

MAX_HEADER = 16 * 2**20
"""How long a header can be, in bytes: that of some hundred thousand tensors."""

_MAX_DIMENSIONS = 64
_OTHERS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b")  # zip, pickle, gzip

_BYTES = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ"], 1),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 2),
    **dict.fromkeys(["I32", "U32", "F32"], 4),
    **dict.fromkeys(["I64", "U64", "F64", "C64"], 8),
}
"""How many bytes an element takes, by the name that the format has for its type."""


def parse_tensors(raw: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, in memory of their own.

    Args:
        raw: What the file holds.
        path: What to call it in errors.

    Raises:
        CheckpointError: If the file is damaged or of another kind.
    """
    try:
        names = _check_header(raw)
        tensors = load(raw)
        return {name: tensors[name] for name in names}  # the format's own reader gives them in any order
    except MemoryError:
        raise CheckpointError(_too_large(path, len(raw))) from None
    except (SafetensorError, ValueError, RuntimeError, KeyError, AssertionError) as error:
        raise CheckpointError(f"{path} cannot be read as a file of safetensors: {error}.") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors by name of a file that a person named, and its SHA-256: both of the bytes that were read once.

    Raises:
        CheckpointError: If it is damaged, of another kind, or no regular file.
    """
    with open_regular(path, links=True) as file:
        raw = read_whole(file, path)
    return parse_tensors(raw, path), hashlib.sha256(raw).hexdigest()


def read_whole(file: BufferedReader, path: Path) -> bytes:
    """Return what an open file holds; its tensors take as much again for a while.

    Raises:
        CheckpointError: If there is not the memory for it.
    """
    size = require_room(file, path)
    try:
        return file.read(size)
    except MemoryError:
        raise CheckpointError(_too_large(path, size)) from None


def require_room(file: BufferedReader, path: Path) -> int:
    """Return how many bytes an open file has: a file of holes has as many as it says, and none of them on the disk.

    Raises:
        CheckpointError: If they are more than this process may have memory.
    """
    size, room = os.fstat(file.fileno()).st_size, total()
    if size > room:
        raise CheckpointError(f"{path} has {size} bytes, and this process may have {room} bytes of memory.")
    return size


def _too_large(path: Path, size: int) -> str:
    return f"{path} does not fit into memory: it has {size} bytes."


def _check_header(raw: bytes) -> list[str]:
    """Look through the header, and return the names: the format's own reader takes the last of two that are alike.

    Raises:
        ValueError: If something in it is not what it should be.
    """
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or length > len(raw) - 8:  # noqa: PLR2004 - the length of the header, in 8 bytes
        kind = "; it begins as a pickle or an archive does, and none is ever opened" if raw.startswith(_OTHERS) else ""
        raise ValueError(f"its header claims {length} bytes, and {max(len(raw) - 8, 0)} follow{kind}")
    if length > MAX_HEADER:
        raise ValueError(f"its header has {length} bytes, and at most {MAX_HEADER} are read")
    header = loads(raw[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")  # noqa: TRY004 - of the file, not of an argument
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is no mapping of strings")
    spans = sorted(_span(name, entry) for name, entry in header.items())
    end = 0
    for first, last in spans:
        if first != end:
            raise ValueError(f"its tensors overlap or leave a gap at byte {min(first, end)} of the data")
        end = last
    if end != len(raw) - 8 - length:
        raise ValueError(f"its tensors take {end} bytes, and {len(raw) - 8 - length} follow the header")
    return list(header)


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Return where the data of a tensor begin and end."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name!r:.80} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise ValueError(f"the dtype of {name!r:.80} is {dtype!r:.50}; known: {', '.join(sorted(_BYTES))}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"the shape of {name!r:.80} is {shape!r:.50}")
    if not _are_counts(offsets) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise ValueError(f"the data_offsets of {name!r:.80} are {offsets!r:.50}")
    first, last = offsets
    if last - first != math.prod(shape) * _BYTES[dtype]:
        raise ValueError(f"{name!r:.80} has {last - first} bytes, which its shape and dtype are not of")
    return first, last


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)
