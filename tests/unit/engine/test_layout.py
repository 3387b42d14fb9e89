"""How tensors lie in a file: the format's own reader takes it, and finds every tensor as it was."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from mtlkit.engine.checkpoint import layout

tensors = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.sampled_from(sorted(layout._NAMES, key=str)),
    st.sampled_from([(), (1,), (3,), (0,), (2, 3), (2, 0, 3), (5, 7, 2)]),
    st.integers(0, 9),
)


def written(given_tensors):
    return b"".join(layout.pieces(given_tensors))


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), tensors, max_size=6))
def test_every_tensor_is_read_back(each):
    each.pop("__metadata__", None)
    found = load(written(each))
    assert found.keys() == each.keys()
    for name, tensor in each.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        before, after = (one.reshape(-1).view(torch.uint8) for one in (tensor, found[name]))
        assert torch.equal(before, after)


def test_the_bytes_are_those_that_the_format_prescribes():
    content = written({"b": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.tensor([[1.0]], dtype=torch.float32)})
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {
        "a": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [4, 6]},
    }
    assert content[8 + length :] == b"\x00\x00\x80\x3f\x01\x02"


def test_order_of_the_tensors_does_not_matter():
    one, other = torch.ones(2), torch.zeros(3)
    assert written({"a": one, "b": other}) == written({"b": other, "a": one})


def test_a_large_tensor_comes_in_pieces(monkeypatch):
    monkeypatch.setattr(layout, "PIECE", 16)
    tensor = torch.arange(10.0)
    header, *rest = layout.pieces({"a": tensor})
    assert [len(piece) for piece in rest] == [16, 16, 8]
    assert torch.equal(load(header + b"".join(rest))["a"], tensor)


@pytest.mark.parametrize("make", [lambda t: t.T, lambda t: t[:, 1:], lambda t: t.expand(4, 3, 3)])
def test_views_are_written_as_what_they_show(make):
    view = make(torch.arange(9.0).reshape(3, 3))
    assert torch.equal(load(written({"view": view}))["view"], view)


def test_a_dtype_that_the_format_lacks_is_named():
    with pytest.raises(TypeError, match=r"cannot hold 'weight': safetensors has no name for torch\.complex128"):
        written({"weight": torch.zeros(2, dtype=torch.complex128)})
