"""How tensors lie in a file of safetensors, in pieces that can be written one after the other.

The format (https://github.com/huggingface/safetensors): the length of the header in 8 bytes, little-endian; the header,
JSON that says of each tensor its dtype, its shape, and where in the rest its bytes begin and end; then the bytes of all
tensors, in C order and without gaps. Here the wider dtypes come first, and the header is filled up with spaces to a
multiple of 8, so that each tensor begins at a multiple of the size of its elements.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

__all__ = ["pieces"]

PIECE = 2**23
"""How many bytes of a tensor make a piece, at most: written in milliseconds."""

_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
}
"""What the format calls each dtype."""


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """Yield what a file of these tensors holds. No copy is made of those that are contiguous and on the CPU.

    Raises:
        TypeError: If the format has no name for a dtype.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    yield _header(ordered)
    for _, tensor in ordered:
        view = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(view), PIECE):
            yield view[start : start + PIECE]


def _header(ordered: list[tuple[str, Tensor]]) -> bytes:
    entries, end = {}, 0
    for name, tensor in ordered:
        if tensor.dtype not in _NAMES:
            raise TypeError(f"A checkpoint cannot hold {name!r}: safetensors has no name for {tensor.dtype}.")
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
