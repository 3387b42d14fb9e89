"""Carving splits, and seeds that are derived."""

from __future__ import annotations

import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import InputSpec, Split
from mtlkit.data import MapSplit, carve, derived_seed, describe
from mtlkit.errors import DataError


def split(n, offset=0, **columns):
    numbers = torch.arange(offset, offset + n)
    return Split(numbers[:, None].float(), {"number": numbers, **columns})


def numbers(part):
    return part.targets["number"].tolist()


FRACTIONS = st.floats(0.01, 0.3)


@settings(max_examples=80, deadline=None)
@given(st.integers(3, 200), FRACTIONS, FRACTIONS, st.integers(0, 2**63 - 1))
def test_every_row_goes_to_exactly_one_split(n, validation, test, seed):
    carved = carve({"train": split(n)}, validation=validation, test=test, seed=seed)
    assert list(carved) == ["train", "validation", "test"]
    assert sorted(chain.from_iterable(map(numbers, carved.values()))) == list(range(n))
    assert len(carved["validation"]) == max(1, round(n * validation))
    assert len(carved["test"]) == max(1, round(n * test))
    for part in carved.values():
        assert part.inputs[:, 0].tolist() == numbers(part)  # rows stay whole
        assert numbers(part) == sorted(numbers(part))  # and in their order


def test_the_seed_decides():
    def rows(seed):
        return {
            name: numbers(part)
            for name, part in carve({"train": split(50)}, validation=0.2, test=0.2, seed=seed).items()
        }

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_random_state_is_left_alone():
    before = torch.get_rng_state()
    carve({"train": split(10)}, validation=0.2, test=0.2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_the_source_gives_is_kept():
    given_splits = {"train": split(10), "validation": split(3, 10), "test": split(4, 20)}
    carved = carve(given_splits, validation=0.5, test=0.5, seed=0)
    assert all(carved[name] is part for name, part in given_splits.items())


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_only_what_is_missing_is_carved(missing):
    other = {"validation": "test", "test": "validation"}[missing]
    carved = carve({other: split(3, 100), "train": split(10)}, validation=0.2, test=0.2, seed=0)
    assert list(carved) == ["train", "validation", "test"]
    assert numbers(carved[other]) == [100, 101, 102]
    assert (len(carved[missing]), len(carved["train"])) == (2, 8)


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_are_refused(rows):
    with pytest.raises(DataError, match=f"{rows} training rows are too few to carve validation and test from"):
        carve({"train": split(rows)}, validation=0.1, test=0.1, seed=0)


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(DataError, match="100 training rows are too few"):
        carve({"train": split(100)}, validation=0.5, test=0.5, seed=0)


def test_one_row_is_enough_where_nothing_is_carved():
    whole = {name: split(1) for name in ("train", "validation", "test")}
    assert len(carve(whole, validation=0.1, test=0.1, seed=0)["train"]) == 1


@pytest.mark.parametrize(
    ("names", "said"), [(["test"], "'test'"), (["train", "val"], "'train', 'val'"), ([], "received none")]
)
def test_unknown_and_missing_splits_are_refused(names, said):
    with pytest.raises(DataError, match=f"A source gives 'train', and optionally 'validation' and 'test'.*{said}"):
        carve({name: split(5) for name in names}, validation=0.1, test=0.1, seed=0)


def test_splits_that_do_not_match_are_refused():
    wide = Split(torch.zeros(5, 2), {"number": torch.zeros(5)})
    with pytest.raises(DataError, match=r"Split 'test' does not match 'train': rows of shape \(2,\)"):
        carve({"train": split(5), "test": wide}, validation=0.1, test=0.1, seed=0)
    more = split(5, extra=torch.zeros(5))
    with pytest.raises(DataError, match=r"columns \['extra', 'number'\], against \(1,\) with \['number'\]"):
        carve({"train": split(5), "validation": more}, validation=0.1, test=0.1, seed=0)


@given(st.lists(st.integers() | st.text()))
def test_a_derived_seed_is_one_that_torch_takes(parts):
    seed = derived_seed(*parts)
    assert 0 <= seed < 2**63
    assert torch.Generator().manual_seed(seed).initial_seed() == seed
    assert derived_seed(*parts) == seed


def test_every_part_and_its_place_count():
    seeds = [derived_seed(*parts) for parts in ((1, 2), (2, 1), (12,), (1, 2, 0), ("a", 1), ("b", 1), ())]
    assert len(set(seeds)) == len(seeds)


def test_a_derived_seed_is_the_same_in_every_process():
    code = "from mtlkit.data import derived_seed; print(derived_seed('stream', 7, 'a'))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(answer) == derived_seed("stream", 7, "a")


def test_rows_of_parts_are_carved_whole():
    parts = {"numeric": torch.arange(20.0)[:, None], "categorical": torch.arange(20)[:, None]}
    carved = carve({"train": Split(parts, {"number": torch.arange(20)})}, validation=0.2, test=0.2, seed=3)
    for part in carved.values():
        assert part.inputs["numeric"][:, 0].tolist() == part.inputs["categorical"][:, 0].tolist() == numbers(part)
    assert carved["train"].row == InputSpec(parts={"numeric": InputSpec((1,)), "categorical": InputSpec((1,))})


def test_categories_are_counted_over_all_splits():
    def table(*rows):
        return Split(torch.tensor(rows), {})

    assert describe({"train": table([0, 2], [1, 0]), "test": table([4, 0])}) == InputSpec((2,), (5, 3))
    assert describe({"train": Split({"a": torch.tensor([3, 1]), "b": torch.zeros(2, 4)}, {})}) == InputSpec(
        parts={"a": InputSpec((), (4,)), "b": InputSpec((4,))}
    )


@pytest.mark.parametrize("inputs", [torch.zeros(2, 3), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)])
def test_numbers_and_pixels_are_no_categories(inputs):
    assert describe({"train": Split(inputs, {})}) == InputSpec(tuple(inputs.shape[1:]))


class Counted:
    """A data set of numbers that counts how many were read."""

    def __init__(self, n):
        self.n, self.read = n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read += 1
        return [float(index)], {"number": index}


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 60), FRACTIONS, FRACTIONS, st.integers(0, 2**63 - 1))
def test_rows_that_are_read_one_by_one_are_carved_like_others_and_not_read(n, validation, test, seed):
    rows = Counted(n)
    fractions = {"validation": validation, "test": test, "seed": seed}
    carved, columns = carve({"train": MapSplit(rows)}, **fractions), carve({"train": split(n)}, **fractions)
    assert rows.read == 1  # the first, to see what a row is
    for name, part in carved.items():
        assert [part.number(index) for index in range(len(part))] == numbers(columns[name])


def test_columns_of_a_mapped_file_stay_there(tmp_path):
    np.arange(40.0).tofile(tmp_path / "rows.bin")
    mapped = Split(np.memmap(tmp_path / "rows.bin", mode="r", shape=(20, 2)), {"number": np.arange(20)})
    carved = carve({"train": mapped}, validation=0.2, test=0.2, seed=1)
    columns = carve({"train": split(20)}, validation=0.2, test=0.2, seed=1)
    for name, part in carved.items():
        assert part.split is mapped
        assert part.take(torch.arange(len(part))).targets["number"].tolist() == numbers(columns[name])
    assert carve({"train": mapped, "test": mapped}, validation=0.2, test=0.2, seed=1)["test"] is mapped


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            Split(torch.zeros(5, 1), {"number": torch.zeros(5, 2)}),
            r"the target 'number' of shape \(2,\) and torch.float32",
        ),
        (Split(torch.zeros(5, 1), {"number": torch.zeros(5)}), r"the target .* torch.float32, against \(\) and "),
        (
            Split(torch.zeros(5, 1, dtype=torch.uint8), {"number": torch.arange(5)}),
            "the input of shape .* and torch.uint8",
        ),
    ],
)
def test_splits_whose_columns_are_of_another_kind_are_refused(other, said):
    with pytest.raises(DataError, match=f"Split 'test' does not match 'train': {said}"):
        carve({"train": split(5), "test": other}, validation=0.2, test=0.2, seed=0)


@pytest.mark.parametrize(
    ("given_split", "said"),
    [(iter([1, 2]), "received .*iterator. Rows that only come one after another are a StreamSplit"), ([], "has none")],
)
def test_what_is_no_data_set_is_refused(given_split, said):
    with pytest.raises(DataError, match=said):
        MapSplit(given_split)


def test_a_data_set_of_torch_may_give_pairs():
    rows = torch.utils.data.TensorDataset(torch.arange(6.0)[:, None], torch.arange(6))
    assert MapSplit(rows)[4].targets["target"].item() == 4
    with pytest.raises(IndexError, match="no row 6 among 6"):
        MapSplit(rows)[6]
    assert MapSplit(rows).take(torch.tensor([5, 1])).take(torch.tensor([1]))[0].inputs[""].tolist() == [1.0]
