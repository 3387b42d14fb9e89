"""What a row has to be: what the first one is, in every column."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mtlkit import InputSpec
from mtlkit.data.row_format import Misfit, RowFormat, item_of

FIRST = (torch.zeros(2, 3), {"class": 1, "size": 0.5})


def put(*items, first=FIRST, dtype=torch.float32):
    row_format = RowFormat.of(item_of(first), dtype)
    columns = row_format.empty(len(items))
    for place, item in enumerate(items):
        row_format.put(columns, place, item_of(item))
    return row_format.split(columns)


def test_rows_become_columns_in_the_dtypes_that_a_run_has():
    made = put(FIRST, (np.ones((2, 3)), {"size": np.float64(2), "class": np.int8(4)}), dtype=torch.float64)
    assert made.inputs.tolist() == [[[0] * 3] * 2, [[1] * 3] * 2]
    assert made.inputs.dtype is made.targets["size"].dtype is torch.float64
    assert made.targets["class"].dtype is torch.int64
    assert made.targets["class"].tolist() == [1, 4]
    assert made.targets["size"].tolist() == [0.5, 2]


def test_inputs_of_whole_numbers_keep_their_dtype():
    made = put((torch.zeros(3, dtype=torch.uint8), 7), first=(torch.zeros(3, dtype=torch.uint8), 7))
    assert made.inputs.dtype is torch.uint8
    assert made.targets["target"].tolist() == [7]


def test_inputs_may_have_names():
    first = ({"numbers": torch.zeros(2), "kinds": torch.zeros(1, dtype=torch.int64)}, {})
    row_format = RowFormat.of(item_of(first), torch.float32)
    assert row_format.row == InputSpec(parts={"numbers": InputSpec((2,)), "kinds": InputSpec((1,))})
    assert put(first, first=first).inputs["kinds"].tolist() == [[0]]


def test_arrays_that_cannot_be_written_to_are_taken():
    row = np.arange(3.0)
    row.flags.writeable = False
    assert put((row, 1), first=(row, 1)).inputs.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (7, "is int, and a row is a pair"),
        ((1, 2, 3), "is 3 values, and a row is a pair"),
        (("red", 1), "has in the input a str, of which torch makes no tensor"),
        ((torch.zeros(2, 3), {"class": [[1], [2, 3]]}), "has in the target 'class' a list"),
    ],
)
def test_what_is_no_row_is_refused(item, said):
    with pytest.raises(Misfit, match=said):
        item_of(item)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            (torch.zeros(3, 3), {"class": 1, "size": 1.0}),
            r"has the input of shape \(3, 3\), and in the first row it is of shape \(2, 3\)",
        ),
        ((torch.zeros(2, 3), {"class": 1}), "has not the target 'size', and the first row has it"),
        ((torch.zeros(2, 3), {"class": 1, "size": 1.0, "n": 2}), "has the target 'n', and the first row has not"),
        (({"a": torch.zeros(2, 3)}, {"class": 1, "size": 1.0}), "has not the input"),
        (
            (torch.zeros(2, 3), {"class": float("nan"), "size": 1.0}),
            "has NaN in the target 'class', and in the first row it is torch.int64; .* the task's 'missing' marks",
        ),
        ((torch.zeros(2, 3), {"class": 1.5, "size": 1.0}), "has torch.float32 in the target 'class'"),
        ((torch.zeros(2, 3, dtype=torch.complex64), {"class": 1, "size": 1.0}), "has torch.complex64 in the input"),
    ],
)
def test_a_row_that_is_not_as_the_first_is_refused(item, said):
    with pytest.raises(Misfit, match=said):
        put(item)


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(3, dtype=torch.int64)])
def test_whole_numbers_of_inputs_are_not_widened(value):
    with pytest.raises(Misfit, match=r"in the input, and in the first row it is torch\.uint8"):
        put((value, 1), first=(torch.zeros(3, dtype=torch.uint8), 1))


def test_a_whole_number_in_a_column_of_others_is_taken_and_nan_too():
    made = put((torch.zeros(2, 3, dtype=torch.int64), {"class": True, "size": float("nan")}))
    assert made.targets["size"].isnan().all()
    assert made.targets["class"].tolist() == [1]


def test_columns_share_one_piece_of_memory_without_overlap():
    row_format = RowFormat.of(
        item_of(({"a": torch.zeros(3), "b": torch.zeros((), dtype=torch.uint8)}, {"y": 1})), torch.float32
    )
    memory = torch.zeros(row_format.bytes_of(5), dtype=torch.uint8)
    views = row_format.views(memory, 5)
    assert [tuple(view.shape) for view in views] == [(5, 3), (5,), (5,)]
    for number, view in enumerate(views, 1):
        view.fill_(number)
    assert [int(view.sum()) for view in views] == [15, 10, 15]
    assert row_format.row_bytes == 12 + 1 + 8
