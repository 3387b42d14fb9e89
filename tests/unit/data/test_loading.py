"""How a run reads rows of every kind: in memory where they fit, or when they are drawn, here or by workers."""

from __future__ import annotations

import functools
import random
from itertools import chain

import numpy as np
import pytest
import torch

from mtlkit import InputSpec, Split
from mtlkit.data import MapSplit, Order, carve
from mtlkit.data.loading import stream_of
from mtlkit.data.reader import Reader, batches, row_count, some_rows
from mtlkit.errors import DataError

KINDS = ["columns", "mapped", "rows", "stream"]
WORKERS = [0, 1, 3]


def numbers(batch):
    assert batch.inputs.dtype is torch.float32
    assert batch.inputs[:, 0].tolist() == batch.targets["n"].tolist()  # rows stay whole
    return batch.targets["n"].tolist()


def training(reader, batch_size=4, seed=0):
    return stream_of(reader, functools.partial(Order, seed=seed), batch_size=batch_size)


def draw(stream, count):
    return [numbers(stream.next()) for _ in range(count)]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_is_read_once_and_in_order(split_of, open_all, kind, workers):
    reader = open_all({"train": split_of(kind)}, workers=workers)["train"]
    for size in (1, 3, 4, 7, 20, 100):
        read = [numbers(batch) for batch in batches(reader, size)]
        assert list(chain.from_iterable(read)) == list(range(20))
        assert {len(each) for each in read[:-1]} <= {size}
    assert row_count(reader) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_training_draws_the_same_however_rows_are_read(split_of, open_all, kind):
    drawn = [
        draw(training(open_all({"train": split_of(kind)}, **loading)["train"]), 13)
        for loading in ({"memory": None}, *({"workers": workers} for workers in WORKERS), {"workers": 2, "prefetch": 5})
    ]
    assert all(each == drawn[0] for each in drawn)
    if kind != "stream":
        assert list(chain.from_iterable(drawn[0])) == Order(20, seed=0).rows(0, 52).tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_from_what_was_drawn_and_not_from_what_was_read_ahead(split_of, open_all, kind, workers):
    options = {"shuffle": 3} if kind == "stream" else {}
    stream = training(open_all({"train": split_of(kind, **options)}, workers=workers)["train"])
    state = stream.state()
    first = draw(stream, 3)
    later = stream.state()
    rest = draw(stream, 9)
    stream.restore(state)
    assert draw(stream, 12) == first + rest
    other = training(open_all({"train": split_of(kind, **options)}, workers=workers)["train"])
    other.restore(later)
    assert draw(other, 9) == rest


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_a_stream_that_was_closed_opens_again_where_it_was(split_of, open_all, kind):
    straight, closed = (training(open_all({"train": split_of(kind)}, workers=2)["train"]) for _ in range(2))
    drawn = []
    for _ in range(4):
        drawn += draw(closed, 2)
        closed.close()
    assert drawn == draw(straight, 8)


def test_a_state_of_another_kind_is_refused(split_of, open_all):
    rows, stream = (training(open_all({"train": split_of(kind)})["train"]) for kind in ("rows", "stream"))
    with pytest.raises(KeyError):
        rows.restore(stream.state())
    with pytest.raises(KeyError):
        stream.restore(rows.state())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_an_evaluation_may_come_between_two_batches(split_of, open_all, kind, workers):
    split = split_of(kind, 40)
    readers = open_all(carve({"train": split}, validation=0.3, test=0.3, seed=0), workers=workers)
    plain = draw(training(readers["train"]), 6)
    stream = training(readers["train"])
    drawn = draw(stream, 2)
    held_out = [list(chain.from_iterable(map(numbers, batches(readers["validation"], 9)))) for _ in range(2)]
    drawn += draw(stream, 4)
    assert drawn == plain
    assert held_out[0] == held_out[1] == sorted(held_out[0])
    assert not set(held_out[0]) & set(chain.from_iterable(drawn))


@pytest.mark.parametrize("workers", [0, 2])
def test_two_streams_of_one_source_may_be_drawn_from_by_turns_and_an_evaluation_between(split_of, open_all, workers):
    reader = open_all({"train": split_of("rows")}, workers=workers)["train"]
    stream = training(reader)
    other = stream.another("held out")
    orders = Order(20, seed=0), other.order
    drawn = [[], []]
    for _ in range(4):
        drawn[0] += draw(stream, 1)[0]
        drawn[1] += draw(other, 1)[0]
        assert list(chain.from_iterable(map(numbers, batches(reader, 6)))) == list(range(20))
    assert drawn == [order.rows(0, 16).tolist() for order in orders]
    assert drawn[0] != drawn[1]


def test_rows_that_come_one_after_another_have_no_second_order(split_of, open_all):
    stream = training(open_all({"train": split_of("stream")})["train"])
    with pytest.raises(DataError, match=r"The rows of task 'n' \(a test\) come one after another, and have no second"):
        stream.another("held out")


class TestMemory:
    def test_rows_that_fit_are_read_once(self, split_of, open_all):
        split = split_of("rows")
        size = 20 * (4 + 8)  # a float32 and an int64
        held = open_all({"train": split}, memory=size)["train"]
        assert isinstance(held, Split)
        assert sorted(split.dataset.read) == [0, *range(20)]  # the first one to see what a row is
        draw(training(held), 20)
        assert len(split.dataset.read) == 21
        assert isinstance(open_all({"train": split}, memory=size - 1)["train"], Reader)
        assert isinstance(open_all({"train": split}, memory=0)["train"], Reader)
        assert isinstance(open_all({"train": split}, memory=None)["train"], Split)

    def test_all_splits_of_a_source_have_to_fit_together(self, split_of, open_all):
        splits = {"train": split_of("rows"), "test": split_of("rows", 5)}
        for memory, kind in ((25 * 12, Split), (25 * 12 - 1, Reader)):
            assert all(isinstance(each, kind) for each in open_all(splits, memory=memory).values())

    def test_rows_that_change_and_streams_are_never_held(self, split_of, open_all):
        for split in (split_of("rows", random=True), split_of("stream")):
            assert isinstance(open_all({"train": split}, memory=None)["train"], Reader)

    def test_mapped_columns_stay_on_the_disk_unless_all_is_to_be_held(self, split_of, open_all):
        split = split_of("mapped")
        for splits in ({"train": split}, carve({"train": split}, validation=0.2, test=0.2, seed=0)):
            for reader in open_all(splits, memory=10**9).values():
                assert reader.split.inputs.data_ptr() == split.inputs.data_ptr()
            held = open_all(splits, memory=None)
            assert all(isinstance(each, Split) for each in held.values())
            rows = [numbers(each) for each in held.values()]
            assert sorted(chain.from_iterable(rows)) == list(range(20))

    def test_columns_are_converted_at_once_if_they_fit_and_batch_by_batch_if_not(self, split_of, open_all):
        split = split_of("columns")  # of float64
        assert open_all({"train": split}, memory=20 * 12)["train"].inputs.dtype is torch.float32
        assert isinstance(open_all({"train": split}, memory=20 * 12 - 1)["train"], Reader)
        ready = split.to(torch.device("cpu"), torch.float32)
        assert open_all({"train": ready}, memory=0)["train"].inputs.data_ptr() == ready.inputs.data_ptr()


def test_splits_of_one_source_may_be_of_several_kinds(split_of, open_all):
    splits = {"train": split_of("rows", 20), "validation": split_of("stream", 6), "test": split_of("mapped", 4)}
    readers = open_all(splits, workers=1)
    assert {name: list(chain.from_iterable(map(numbers, batches(each, 5)))) for name, each in readers.items()} == {
        "train": list(range(20)),
        "validation": list(range(6)),
        "test": list(range(4)),
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("kind", "some"), [("mapped", [0, 6, 12, 19]), ("rows", [0, 6, 12, 19]), ("stream", range(4))])
def test_some_rows_are_from_all_over_where_rows_are_indexed(split_of, open_all, kind, some, workers):
    reader = open_all({"train": split_of(kind)}, workers=workers)["train"]
    assert numbers(some_rows(reader, 4)) == list(some)
    assert numbers(some_rows(reader, 100)) == list(range(20))


def test_a_split_may_say_what_its_rows_are(split_of, open_all):
    row = InputSpec((1,), (7,))
    for kind in ("rows", "stream"):
        assert open_all({"train": split_of(kind, row=row)})["train"].row == row
        with pytest.raises(
            DataError, match=r"Split 'train' says that a row of its inputs is \(3,\), and its first row"
        ):
            open_all({"train": split_of(kind, row=InputSpec((3,)))})


ODD = [
    ((torch.zeros(2), {"n": 1}), r"has the input of shape \(2,\), and in the first row it is of shape \(1,\)"),
    ((torch.zeros(1), {"m": 1}), "has not the target 'n'"),
    ((torch.zeros(1), {"n": float("nan")}), "has NaN in the target 'n', and in the first row it is torch.int64"),
    ("seven", "is str, and a row is a pair"),
    ([].pop, "raised IndexError: pop from empty list"),
]


@pytest.mark.parametrize("loading", [{"memory": None}, {"workers": 0}, {"workers": 2}], ids=str)
@pytest.mark.parametrize(("odd", "said"), ODD)
def test_a_row_that_does_not_fit_is_told_of_by_its_number(split_of, open_all, odd, said, loading):
    split = split_of("rows", odd={13: odd})
    told = rf"^The rows of task 'n' \(a test\) cannot be read\. Row 13 of 'train' {said}"
    with pytest.raises(DataError, match=told):
        draw(training(open_all({"train": split}, **loading)["train"]), 5)
    # Whichever split it was carved into, it is row 13 of what the source gave.
    carved = carve({"train": split}, validation=0.3, test=0.3, seed=1)
    with pytest.raises(DataError, match=told):
        _ = [numbers(batch) for reader in open_all(carved, **loading).values() for batch in batches(reader, 3)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("odd", "said"), ODD)
def test_a_row_of_a_stream_that_does_not_fit_is_told_of_by_its_number(split_of, open_all, odd, said, workers):
    reader = open_all({"train": split_of("stream", odd={13: odd})}, workers=workers)["train"]
    stream = training(reader)
    assert draw(stream, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]  # though it was read ahead
    with pytest.raises(DataError, match=rf"\(a test\) cannot be read\. Row 13 of 'train' {said}"):
        stream.next()


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_a_first_row_that_is_none_is_told_of(split_of, kind):
    with pytest.raises(DataError, match="Split 'train': Row 0 is str, and a row is a pair"):
        carve({"train": split_of(kind, odd={0: "x"})}, validation=0.1, test=0.1, seed=0)


class Noisy:
    """Rows that are drawn anew each time, from every global generator."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002, S311
        return torch.tensor([index, *noise], dtype=torch.float64), {"n": index}


class TestRandomRows:
    def rows(self, open_all, *, workers=0, passes=2, batch_size=4, seed=0):
        reader = open_all({"train": MapSplit(Noisy(), random=True)}, workers=workers, seed=seed, batch_size=batch_size)
        stream = training(reader["train"], batch_size)
        drawn = torch.cat([stream.next().inputs for _ in range(passes * 12 // batch_size)])
        return drawn, next(iter(batches(reader["train"], 12))).inputs

    def test_they_do_not_depend_on_who_reads_them_or_how_many_at_a_time(self, open_all):
        expected = self.rows(open_all)
        for options in ({"workers": 1}, {"workers": 3}, {"batch_size": 6}, {"workers": 2, "batch_size": 2}):
            for one, other in zip(self.rows(open_all, **options), expected, strict=True):
                assert torch.equal(one, other)

    def test_they_differ_from_pass_to_pass_and_from_seed_to_seed(self, open_all):
        drawn, _ = self.rows(open_all)
        first, second = (each[each[:, 0].argsort()] for each in drawn.split(12))
        assert (first[:, 1:] != second[:, 1:]).all()
        other, _ = self.rows(open_all, seed=1)
        assert (drawn[:, 1:] != other[:, 1:]).all()

    def test_evaluations_see_the_same_each_time(self, open_all):
        reader = open_all({"test": MapSplit(Noisy(), random=True), "train": MapSplit(Noisy(), random=True)})["test"]
        first, second = (torch.cat([batch.inputs for batch in batches(reader, size)]) for size in (5, 12))
        assert torch.equal(first, second)

    def test_the_global_generators_are_left_as_they_were(self, open_all):
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
        self.rows(open_all)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert all(map(np.array_equal, np.random.get_state(), before[2]))  # noqa: NPY002
