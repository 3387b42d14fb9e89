"""A header of a file of tensors that lies: about its own length, about shapes and types, about where the data are."""

import json
import struct

import pytest

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def file(header, data=bytes(4), *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


FORGED = {
    "empty": b"",
    "seven bytes": bytes(7),
    "nothing but a length": struct.pack("<Q", 8),
    "a header of 2**64 - 1 bytes": file({"a": F32}, length=2**64 - 1),
    "a header of 2**63 bytes": file({"a": F32}, length=2**63),
    "a header of a terabyte": file({"a": F32}, length=1 << 40),
    "a header of 20 MB": file(b"{" + b" " * 20_000_000 + b"}"),
    "a header of no length": file(b""),
    "no JSON": file(b"not JSON at all"),
    "no mapping": file([F32]),
    "deep": file(b'{"a":' * 100_000),
    "a name twice": file(b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2)),
    "not UTF-8": file(b'{"\xff": 1}'),
    "no entry": file({"a": 3}),
    "more in an entry": file({"a": {**F32, "file": "/etc/passwd"}}),
    "an unknown dtype": file({"a": {**F32, "dtype": "os.system"}}),
    "a dtype that is no word": file({"a": {**F32, "dtype": ["F32"]}}),
    "an unhashable dtype": file({"a": {**F32, "dtype": {}}}),
    "a shape of a word": file({"a": {**F32, "shape": "1"}}),
    "a shape of true": file({"a": {**F32, "shape": [True]}}),
    "a shape below nothing": file({"a": {**F32, "shape": [-1, -1]}}),
    "a shape beyond all numbers": file({"a": {**F32, "shape": [2**62, 2**62, 0]}}),
    "a shape that overflows to four bytes": file({"a": {**F32, "shape": [2**32, 2**32, 1]}}),
    "a terabyte": file({"a": {**F32, "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}),
    "of a thousand dimensions": file({"a": {**F32, "shape": [1] * 1000}}),
    "offsets the wrong way round": file({"a": {**F32, "data_offsets": [4, 0]}}),
    "offsets below nothing": file({"a": {**F32, "data_offsets": [-4, 0]}}),
    "offsets beyond the end": file({"a": {**F32, "data_offsets": [4, 8]}}),
    "offsets that are halves": file({"a": {**F32, "data_offsets": [0.0, 4.0]}}),
    "two that overlap": file({"a": F32, "b": F32}),
    "a gap": file({"a": F32, "b": {**F32, "data_offsets": [8, 12]}}, bytes(12)),
    "more behind": file({"a": F32}, bytes(5)),
    "metadata of numbers": file({"__metadata__": {"a": 1}, "a": F32}),
    "of other names": file({"a": F32}),
    "of no tensors": file({}, b""),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_of_the_best_weights(run, forged, reseal, assert_refused):
    (run / "best" / "weights.safetensors").write_bytes(forged)
    reseal(run / "best")
    assert_refused("weights.safetensors", ways=("evaluate",))


@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors"])
@pytest.mark.parametrize("forged", ["a header of 20 MB", "deep", "a terabyte", "a name twice", "of other names"])
def test_of_the_newest_checkpoint(newest, name, forged, reseal, assert_refused):
    (newest / name).write_bytes(FORGED[forged])
    reseal(newest)
    expected = "state.json" if (name, forged) == ("state.safetensors", "of other names") else name
    assert_refused(expected, ways=("resume",))


@pytest.mark.parametrize("forged", ["a header of 20 MB", "deep", "a terabyte", "empty", "a shape beyond all numbers"])
def test_of_weights_to_begin_with(run, tmp_path, forged, command):
    (tmp_path / "weights.safetensors").write_bytes(FORGED[forged])
    ended = command("train", "run.yaml", "run.name=other", "transfer.pretrained=weights.safetensors")
    assert ended.code == 5, ended.output
    assert "weights.safetensors" in ended.output
    assert "Traceback" not in ended.output
