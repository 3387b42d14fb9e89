"""Split, Source and Task: what a task author meets first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit import InputSpec, Source, Split, Task
from mtlkit.errors import DataError


def split(n=4):
    return Split(torch.arange(2.0 * n).reshape(n, 2), {"y": torch.arange(n), "z": torch.linspace(0, 1, n)})


# Split


def test_a_split_has_rows_and_columns():
    assert len(split(3)) == 3
    assert split().row == InputSpec((2,))
    assert Split(torch.zeros(2, 1, 8, 8), {}).row == InputSpec((1, 8, 8))
    assert Split(torch.zeros(2), {}).row == InputSpec(())


def test_numpy_arrays_are_taken_without_a_copy():
    inputs, column = np.zeros((2, 3), dtype=np.float32), np.zeros(2, dtype=np.int64)
    made = Split(inputs, {"y": column})
    inputs[0, 0], column[1] = 5, 7
    assert made.inputs[0, 0] == 5
    assert made.targets["y"][1] == 7


@pytest.mark.parametrize("view", [lambda a: a, np.asarray, lambda a: np.asarray(a)[1:, ::2]])
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_mapped_arrays_are_taken_without_a_copy_and_known_as_such(tmp_path, view, mode):
    np.arange(24, dtype=np.float32).reshape(6, 4).tofile(tmp_path / "rows.bin")
    rows = view(np.memmap(tmp_path / "rows.bin", np.float32, mode, shape=(6, 4)))
    made = Split(rows, {"y": np.zeros(len(rows))})
    assert made.inputs.data_ptr() == rows.ctypes.data
    assert made.is_mapped
    assert Split({"a": np.zeros(len(rows)), "b": rows}, {}).is_mapped
    assert Split(np.zeros(len(rows)), {"y": rows}).is_mapped
    batch = made.take(torch.tensor([4, 0]))
    assert batch.inputs.tolist() == rows[[4, 0]].tolist()
    assert not batch.is_mapped
    assert not split().is_mapped


@pytest.mark.parametrize("column", [np.array(["a", "b"]), np.array([None, 1]), object(), [[1.0], [1.0, 2.0]]])
def test_what_torch_makes_no_tensor_of_is_refused_by_its_name(column):
    with pytest.raises(DataError, match=r"Target column 'y' has (d?type .*, of which torch makes no tensor)"):
        Split(torch.zeros(2, 1), {"y": column})
    with pytest.raises(DataError, match=r"Input 'a' has d?type"):
        Split({"a": column}, {})


def test_lists_are_taken_too():
    made = Split([[1.0, 2.0], [3.0, 4.0]], {"y": [0, 1]})
    assert made.inputs.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert made.targets["y"].dtype is torch.int64


def test_a_split_does_not_hold_on_to_the_mapping_it_was_given():
    targets = {"y": torch.zeros(1)}
    made = Split(torch.zeros(1, 1), targets)
    targets["z"] = torch.zeros(5)
    assert set(made.targets) == {"y"}


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_a_split_needs_a_row(shape):
    with pytest.raises(DataError, match=r"at least one row; its inputs have shape \("):
        Split(torch.zeros(shape), {})


@pytest.mark.parametrize("shape", [(), (3,), (5, 1)])
def test_every_column_has_as_many_rows_as_the_inputs(shape):
    with pytest.raises(DataError, match=r"Target column 'age' has shape \(.*the inputs have 4 rows"):
        Split(torch.zeros(4, 2), {"sex": torch.zeros(4), "age": torch.zeros(shape)})


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, n - 1), min_size=1))))
def test_taking_rows_takes_them_from_every_column_in_their_order(case):
    n, chosen = case
    whole, taken = split(n), split(n).take(torch.tensor(chosen))
    assert len(taken) == len(chosen)
    for place, row in enumerate(chosen):
        assert torch.equal(taken.inputs[place], whole.inputs[row])
        assert taken.targets["y"][place] == whole.targets["y"][row]
        assert taken.targets["z"][place] == whole.targets["z"][row]


def test_moving_a_split_casts_what_is_floating_point_and_widens_what_is_not():
    columns = {"f": torch.zeros(2, dtype=torch.float64), "i": torch.zeros(2, dtype=torch.int16), "b": [True, False]}
    moved = Split(torch.zeros(2, 1, dtype=torch.float64), columns).to(torch.device("cpu"), torch.float32)
    assert moved.inputs.dtype is torch.float32
    assert {name: column.dtype for name, column in moved.targets.items()} == {
        "f": torch.float32,
        "i": torch.int64,
        "b": torch.int64,
    }


def test_moving_a_split_leaves_inputs_of_whole_numbers_as_they_are():
    moved = Split(torch.zeros(2, 3, dtype=torch.int32), {}).to(torch.device("cpu"), torch.bfloat16)
    assert moved.inputs.dtype is torch.int32


def test_a_split_cannot_be_changed():
    made = split()
    with pytest.raises(AttributeError):
        made.inputs = torch.zeros(1)


# Source


class Plain(Source):
    def __init__(self, rows, noise=0.0):
        self.rows, self.noise = rows, noise

    def splits(self):
        return {"train": split(self.rows)}


class Other(Plain):
    pass


@dataclass(frozen=True)
class Frozen(Source):
    rows: int

    def splits(self):
        return {"train": split(self.rows)}


def test_sources_are_equal_by_class_and_values():
    assert Plain(3) == Plain(3)
    assert Plain(3) != Plain(4)
    assert Plain(3) != Plain(3, noise=0.1)
    assert Plain(3) != Other(3)
    assert Other(3) != Plain(3)
    assert Plain(3) != 3
    assert Frozen(3) == Frozen(3)
    assert Frozen(3) != Frozen(4)
    assert Frozen(3) != Plain(3)


def test_a_frozen_dataclass_may_be_hashed_and_others_may_not():
    assert len({Frozen(3), Frozen(3)}) == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Plain(3))


def test_a_source_has_to_give_splits():
    with pytest.raises(TypeError, match="abstract"):
        Source()


# Task


class Regression(Task):
    def source(self):
        return Plain(4)

    def head(self, features):
        return nn.Linear(features.size, 1)

    def loss(self, output, target):
        return (output - target).square().mean()

    def metrics(self):
        return {}


def test_the_defaults_of_a_task():
    task = Regression()
    assert (task.loss_kind, task.target, task.n_classes, task.missing) == ("other", "target", None, -100)


@pytest.mark.parametrize("method", ["source", "head", "loss", "metrics"])
def test_a_task_has_to_implement_each_part(method):
    partial = type("Partial", (Regression,), {method: getattr(Task, method)})
    with pytest.raises(TypeError, match=method):
        partial()


def test_a_floating_point_target_has_no_label_where_it_is_nan():
    labelled = Regression().labelled(torch.tensor([0.0, float("nan"), -100.0, float("inf")]))
    assert labelled.tolist() == [True, False, True, True]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64])
def test_an_integer_target_has_no_label_where_it_is_the_marker(dtype):
    assert Regression().labelled(torch.tensor([0, -100, 3, -1], dtype=dtype)).tolist() == [True, False, True, True]


def test_the_marker_is_the_tasks_own():
    class Marked(Regression):
        missing = 255

    assert Marked().labelled(torch.tensor([255, -100], dtype=torch.int64)).tolist() == [False, True]
    assert Marked().labelled(torch.tensor([255, 3], dtype=torch.uint8)).tolist() == [False, True]


@pytest.mark.parametrize("shape", [(3, 2), (3, 1), (3, 2, 2)])
def test_a_row_of_several_targets_has_a_label_where_none_is_missing(shape):
    target = torch.zeros(shape)
    target[1].view(-1)[-1] = float("nan")
    labelled = Regression().labelled(target)
    assert labelled.tolist() == [True, False, True]
    assert labelled.dtype is torch.bool


def test_inputs_may_be_several_by_name():
    parts = {"numeric": np.zeros((3, 2), dtype=np.float32), "categorical": torch.tensor([[1], [2], [3]])}
    rows = Split(parts, {"target": [0, 1, 2]})
    assert len(rows) == 3
    assert rows.row == InputSpec(parts={"numeric": InputSpec((2,)), "categorical": InputSpec((1,))})
    taken = rows.take(torch.tensor([2, 0])).to(torch.device("cpu"), torch.float64)
    assert taken.inputs["categorical"].tolist() == [[3], [1]]
    assert taken.inputs["categorical"].dtype == torch.int64
    assert taken.inputs["numeric"].dtype == torch.float64
    assert taken.targets["target"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "one tensor, or several by name; received none"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(3)}, r"Input 'b' has shape \(3,\), and the inputs have 2 rows"),
        ({"a": torch.zeros(0, 1)}, "at least one row"),
    ],
)
def test_parts_that_are_no_rows_are_refused(inputs, message):
    with pytest.raises(DataError, match=message):
        Split(inputs, {})
