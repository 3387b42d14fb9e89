"""How batches get to another device than that of the rows; the meta device stands for a GPU."""

from __future__ import annotations

import pytest
import torch

from mtlkit import Split
from mtlkit.data.delivery import Delivery

META = torch.device("meta")


@pytest.fixture(name="pinned")
def fixture_pinned(monkeypatch):
    """What was pinned, which no machine without a GPU can do."""
    seen = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda column: seen.append(column) or column)
    return seen


@pytest.mark.parametrize("pin", [True, False])
def test_every_column_is_converted_pinned_and_moved(pinned, pin):
    split = Split(torch.zeros(3, 2, dtype=torch.float64), {"class": torch.zeros(3, dtype=torch.uint8)})
    moved = Delivery(META, torch.float32, pin=pin).of(split)
    assert moved.device == META
    assert moved.inputs.dtype is torch.float32
    assert moved.targets["class"].dtype is torch.int64
    assert [column.dtype for column in pinned] == ([torch.float32, torch.int64] if pin else [])


def test_nothing_is_copied_that_is_there(pinned):
    column = torch.zeros(3)
    delivery = Delivery(torch.device("cpu"), torch.float32)
    assert delivery.moved(column) is column
    assert delivery.copied(column).data_ptr() != column.data_ptr()
    assert pinned == []


def test_what_is_shared_is_copied_on_its_way(pinned):
    assert Delivery(META, torch.float32).copied(torch.zeros(3)).device == META
    assert len(pinned) == 1
