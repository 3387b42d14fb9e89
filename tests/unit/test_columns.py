"""Columns: alike target columns side by side, which still are columns by name."""

import pytest
import torch

from mtlkit import Split
from mtlkit.columns import Columns, side_by_side

NAMES = ("a", "c")


@pytest.fixture(name="plain")
def fixture_plain():
    return {"a": torch.arange(4.0), "b": torch.arange(4), "c": -torch.arange(4.0)}


@pytest.fixture(name="split")
def fixture_split(plain):
    return Split(torch.arange(8.0).reshape(4, 2), plain).beside([NAMES])


def test_columns_are_found_by_name(split, plain):
    assert isinstance(split.targets, Columns)
    assert sorted(split.targets) == sorted(plain)
    assert len(split.targets) == 3
    for name, column in plain.items():
        assert torch.equal(split.targets[name], column)
        assert split.targets[name].is_contiguous()
    with pytest.raises(KeyError, match="d"):
        split.targets["d"]


def test_a_batch_has_them_side_by_side(split, plain):
    rows = torch.tensor([3, 1, 1])
    batch = split.take(rows)
    assert torch.equal(side_by_side(batch.targets, NAMES), torch.stack([plain[name][rows] for name in NAMES], 1))
    assert batch.targets.blocks.keys() == {NAMES}
    assert torch.equal(batch.targets["b"], plain["b"][rows])


def test_those_that_are_kept_so_are_not_copied(split):
    assert side_by_side(split.targets, NAMES) is split.targets.blocks[NAMES]


def test_others_are_put_side_by_side(split, plain):
    other = side_by_side(split.targets, ("c", "a"))
    assert torch.equal(other, torch.stack([plain["c"], plain["a"]], 1))


def test_a_column_may_stand_in_two_blocks(plain):
    targets = Split(torch.zeros(4, 1), plain).beside([("a", "c"), ("a", "a")]).targets
    assert sorted(targets) == ["a", "b", "c"]
    assert len(targets) == 3
