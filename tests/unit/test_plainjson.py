"""What JSON is written, so that every reader takes it, and what is read, which may be a stranger's."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.plainjson import MAX_DEPTH, dumps, loads

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(plain)
def test_what_is_written_is_read_back(data):
    read = loads(dumps(data).encode())
    assert repr(read) == repr(data)


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_read_or_refused(raw):
    with contextlib.suppress(ValueError):
        loads(raw)


def test_what_json_lacks_is_null():
    assert json.loads(dumps({"a": [math.nan, math.inf, (-math.inf, 1.0)]})) == {"a": [None, None, [None, 1.0]]}


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"", "it is not JSON: .* line 1 column 1"),
        (b'{"a": 1,\n "b": }', "it is not JSON: .* line 2 column 7"),
        (b'{"a": 1} {}', "it is not JSON: Extra data: line 1 column 10"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b'"\xff"', "byte 1 is not UTF-8"),
        ("{}".encode("utf-16"), "is not UTF-8"),
        (b'{"a": 1, "a": 1}', "it has the key 'a' twice"),
        (b'[{"b": {"a": 1, "a": 2}}]', "it has the key 'a' twice"),
        (b"NaN", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"9" * 5000, "Exceeds the limit"),
        (b"[" * 100_000, "too deep"),
        (b'{"a":' * 100_000, "too deep"),
        (b"[" * 51 + b"]" * 51, "more than 50 levels"),
        (b'{"a": ' * 51 + b"1" + b"}" * 51, "more than 50 levels"),
    ],
    ids=lambda each: repr(each[:20]),
)
def test_refuses(raw, what):
    with pytest.raises(ValueError, match=what):
        loads(raw)


def test_fifty_levels_are_fine():
    data = loads(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    for _ in range(MAX_DEPTH - 1):
        (data,) = data
    assert data == []
