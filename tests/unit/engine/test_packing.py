"""Packing: nested state comes back from JSON and a file of tensors bit for bit, and what is malformed is refused."""

import json
import math
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from mtlkit.engine import checkpoint
from mtlkit.engine.checkpoint import packing, tensorfile
from mtlkit.errors import CheckpointError
from mtlkit.plainjson import loads

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]
SHAPES = [(), (1,), (0,), (5,), (2, 3), (2, 0, 3), (1, 1, 1, 4)]
MARKS = [
    "$",
    "$$",
    "$tensor",
    "$items",
    "$tuple",
    "$float",
    "$int",
    "__metadata__",
    "a/b",
    "",
    "0",
    "\ud800",
    "é",
    "\0",
]

names = st.text(st.characters(), max_size=6) | st.sampled_from(MARKS)
bits = st.integers(0, 2**64 - 1).map(lambda number: struct.unpack(">d", struct.pack(">Q", number))[0])
edges = st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, -math.nan, 5e-324, 1.7976931348623157e308])
integers = st.integers() | st.integers(-(2**200), 2**200) | st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1])
floats = st.floats() | bits | edges


@st.composite
def tensors(draw):
    """A tensor of any dtype and shape with random bits, contiguous or not."""
    dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES))
    count = math.prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=count, max_size=count))
    if dtype is torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
    ways = {
        "whole": lambda t: t,
        "transposed": lambda t: t.transpose(0, -1) if t.ndim else t,
        "strided": lambda t: t[::2] if t.ndim else t,
    }
    return ways[draw(st.sampled_from(sorted(ways)))](tensor)


plain_keys = names | integers | st.booleans() | st.none() | st.floats(allow_nan=False)
keys = plain_keys | st.tuples(plain_keys, plain_keys)
leaves = st.none() | st.booleans() | integers | floats | names | tensors()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


def through_files(state):
    """Return what comes back of a state that goes through the text and the bytes that a checkpoint writes."""
    tensors = {}
    text = json.dumps(packing.pack(state, tensors), allow_nan=False).encode()
    whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    return packing.unpack(loads(text), tensorfile.parse_tensors(save(whole), Path("state.safetensors")))


def bits_of(value):
    """Return what two states share if and only if they are the same bit for bit: types, order, dtypes and all."""
    if isinstance(value, torch.Tensor):
        row = torch.empty(value.numel(), dtype=value.dtype).copy_(value.reshape(-1))
        return "tensor", str(value.dtype), tuple(value.shape), row.view(torch.uint8).tolist()
    if isinstance(value, dict):
        return "dict", [(bits_of(key), bits_of(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value).__name__, [bits_of(item) for item in value]
    if isinstance(value, float):
        return "float", struct.pack(">d", value)
    return type(value).__name__, value


class TestRoundTrip:
    @settings(max_examples=150, deadline=None)
    @given(trees)
    def test_of_any_state(self, state):
        assert bits_of(through_files(state)) == bits_of(state)

    @pytest.mark.parametrize(
        "state",
        [
            *({}, [], (), [[]], {"": {}}, [(), ([],)]),
            *({"$tensor": "0"}, {"$items": []}, {"$": 1, "a": 2}, {1: "a", "1": "b"}, {True: 1, "True": 2}, {None: 0}),
            *(2**64, -(2**70), 10**4000, 2**63, -(2**63), 2**63 - 1),
            *(-0.0, math.inf, -math.inf, math.nan, struct.unpack(">d", bytes.fromhex("fff0dead0000beef"))[0]),
            {(1, "a"): {2: 3}},
        ],
        ids=lambda state: repr(state)[:40],
    )
    def test_of(self, state):
        assert bits_of(through_files(state)) == bits_of(state)

    def test_of_memory_that_tensors_share_and_of_views(self):
        rows = torch.arange(6.0)
        state = [rows, rows[2:4], rows.view(2, 3).T, rows[::2], rows[0], rows.expand(2, 6)]
        assert bits_of(through_files(state)) == bits_of(state)

    def test_order_of_keys_is_kept(self):
        state = {"b": 1, "a": torch.ones(1), "c": {3: 1, 1: 2}}
        assert bits_of(through_files(state)) == bits_of(state)

    @pytest.mark.parametrize(
        ("wrap", "times"),
        [(lambda s: [s], 50), (lambda s: {"a": s}, 50), (lambda s: (s,), 25), (lambda s: {1: s}, 16)],
        ids=["list", "dict", "tuple", "dict of other keys"],
    )
    def test_what_is_as_deep_as_allowed(self, wrap, times):
        state = 1
        for _ in range(times):
            state = wrap(state)
        assert bits_of(through_files(state)) == bits_of(state)
        with pytest.raises(ValueError, match="nested too deep for a checkpoint, whose JSON has at most 50 levels"):
            packing.pack(wrap(state), {})


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", object(), 1j, torch.float32, range(3)], ids=lambda value: type(value).__name__
)
def test_what_it_cannot_hold_is_named(value):
    with pytest.raises(TypeError, match=f"A checkpoint cannot hold a {type(value).__name__}: .* It holds tensors"):
        packing.pack({"a": [value]}, {})


def test_an_integer_of_no_sensible_size():
    with pytest.raises(ValueError, match="bits is too large for a checkpoint"):
        packing.pack(1 << 200_000, {})


MALFORMED = [
    *('{"$tensor": "1"}', '{"$tensor": 0}', '{"$tensor": ["0"]}', '{"$tensor": null}', '{"$tensor": "0", "a": 1}'),
    *('{"$tuple": 3}', '{"$tuple": "ab"}', '{"$tuple": {"a": 1}}', '{"$unknown": 1}', '{"a": 1, "$": 2}'),
    *('{"$items": {}}', '{"$items": [1]}', '{"$items": [[1]]}', '{"$items": [[1, 2, 3]]}', '{"$items": ["ab"]}'),
    *('{"$items": [[[1], 2]]}', '{"$items": [[{"a": 1}, 2]]}', '{"$items": [[1, 2], [1, 3]]}'),
    *('{"$items": [[{"$tensor": "0"}, 2]]}', '{"$items": [[{"$tuple": [[1]]}, 2]]}', '{"$items": [[1, 2], [true, 3]]}'),
    *('{"$float": "nan"}', '{"$float": 1.0}', '{"$float": "3ff0000000000000"}', '{"$float": "7FF0000000000000"}'),
    *('{"$float": "7ff000000000000"}', '{"$float": "7ff0 00000000000"}', "NaN", "[Infinity]", '{"a": -Infinity}'),
    *('{"$int": 5}', '{"$int": "5"}', '{"$int": "0000000000000005"}', '{"$int": "0x10000000000000000"}'),
    *('{"$int": "1_0000_0000_0000_0000"}', '{"$int": " 10000000000000000"}', "9223372036854775808", "1" + "0" * 30),
    *('{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "1" * 5000, "[" * 60 + "]" * 60, "[" * 100_000),
    *("", "[1,]", "{'a': 1}", "[1] []", "nul", '"\x01"', '"\\ud8', "\ufeff[]"),
]


@pytest.mark.parametrize("text", MALFORMED, ids=lambda text: text[:40])
def test_malformed_state_is_an_error_of_the_checkpoint(text, tmp_path, reseal):
    checkpoint.save(tmp_path / "here", step=1, model=torch.nn.Linear(1, 1), state={"a": torch.ones(1)})
    (tmp_path / "here" / "state.json").write_text(text, encoding="utf-8")
    reseal(tmp_path / "here")
    with pytest.raises(CheckpointError, match=r"state\.json is no state of a run: "):
        checkpoint.load_state(tmp_path / "here")
