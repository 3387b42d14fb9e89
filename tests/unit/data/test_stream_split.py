"""Streams of rows: which rows are in which split, and a place from which they go on."""

from __future__ import annotations

from itertools import chain, islice

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from mtlkit.data import StreamSplit, carve
from mtlkit.data.cursor import Cursor
from mtlkit.data.row_format import RowFailure
from mtlkit.errors import DataError

SEEN = settings(max_examples=60, deadline=None)
LENGTHS = st.integers(1, 60)
SIZES = st.integers(1, 20)
SEEDS = st.integers(0, 2**63 - 1)


def numbers(start=0, stop=None, opened=None):
    """Yield rows that are their numbers, from one on."""
    if opened is not None:
        opened.append(start)
    for number in range(start, 10**9 if stop is None else stop):
        yield torch.tensor([float(number)]), {"n": number}


def stream(length=20, *, known=True, **options):
    return StreamSplit(lambda start: numbers(start, length), length=length if known else None, **options)


def drawn(cursor, count):
    return [number for number, _ in islice(iter(cursor.draw, None), count)]


@SEEN
@given(LENGTHS, SIZES, SEEDS, st.booleans())
def test_every_pass_holds_every_row_once_shuffled_among_its_neighbours(length, shuffle, seed, known):
    cursor = Cursor(stream(length, known=known, shuffle=shuffle), seed=seed)
    for _ in range(3):
        a_pass = drawn(cursor, length)
        for start in range(0, length, shuffle):
            assert sorted(a_pass[start : start + shuffle]) == list(range(start, min(start + shuffle, length)))


@SEEN
@given(LENGTHS, SIZES, SEEDS, st.integers(0, 130), st.booleans())
def test_the_state_is_all_it_takes_to_go_on(length, shuffle, seed, before, known):
    split = stream(length, known=known, shuffle=shuffle)
    straight, resumed = Cursor(split, seed=seed), Cursor(split, seed=seed)
    drawn(straight, before)
    resumed.restore(straight.state())
    assert drawn(resumed, 50) == drawn(straight, 50)


def test_a_place_is_gone_to_by_the_number_of_its_row():
    opened = []
    split = StreamSplit(lambda start: numbers(start, 20, opened), length=20)
    cursor = Cursor(split, seed=0)
    cursor.restore({"pass": 3, "row": 17, "drawn": 0})
    assert drawn(cursor, 5) == [17, 18, 19, 0, 1]
    assert opened == [17, 0]
    assert cursor.state() == {"pass": 4, "row": 2, "drawn": 0}


def test_passes_and_seeds_shuffle_otherwise():
    cursor = Cursor(stream(20, shuffle=20), seed=0)
    passes = [tuple(drawn(cursor, 20)) for _ in range(3)]
    assert len({*passes, tuple(drawn(Cursor(stream(20, shuffle=20), seed=1), 20))}) == 4


def test_one_pass_is_in_order_and_ends():
    cursor = Cursor(stream(9, shuffle=5), seed=None)
    assert drawn(cursor, 100) == list(range(9))
    assert cursor.draw() is None


@SEEN
@given(LENGTHS, st.floats(0.05, 0.4), st.floats(0.05, 0.4), SEEDS)
def test_every_row_of_a_stream_goes_to_one_split(length, validation, test, seed):
    try:
        carved = carve({"train": stream(length)}, validation=validation, test=test, seed=seed)
    except DataError:
        reject()  # of a few rows, a share may have none
    rows = {name: drawn(Cursor(split, seed=None), length) for name, split in carved.items()}
    assert sorted(chain.from_iterable(rows.values())) == list(range(length))
    assert {name: split.rows for name, split in carved.items()} == {name: len(each) for name, each in rows.items()}


def test_a_share_without_a_row_is_refused():
    with pytest.raises(DataError, match=r"2 training rows are too few to carve validation and test from: '.*' would"):
        carve({"train": stream(2)}, validation=0.1, test=0.1, seed=0)


def test_the_shares_are_those_that_were_asked_for_and_depend_on_the_seed():
    def share(seed):
        carved = carve({"train": stream(20_000)}, validation=0.1, test=0.25, seed=seed)
        return carved["validation"].rows / 20_000, carved["test"].rows / 20_000, carved["test"].holds(0, 50).tolist()

    for seed in (0, 1):
        validation, test, _ = share(seed)
        assert abs(validation - 0.1) < 0.0085  # four standard deviations
        assert abs(test - 0.25) < 0.0125
    assert share(0) == share(0)
    assert share(0)[2] != share(1)[2]


def test_where_a_row_goes_does_not_depend_on_the_rows_after_it():
    short = carve({"train": stream(50)}, validation=0.2, test=0.2, seed=7)["test"]
    unknown = carve({"train": stream(500, known=False)}, validation=0.2, test=0.2, seed=7)["test"]
    assert unknown.rows is None
    assert drawn(Cursor(short, seed=None), 50) == [n for n in drawn(Cursor(unknown, seed=None), 500) if n < 50]


def test_the_hash_is_splitmix64():
    # The first outputs of the generator begun at 1234567, as Vigna's reference has them.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    split = StreamSplit(numbers)
    places = [output / 2**64 for output in expected]
    for place, number in zip(places, range(3), strict=True):
        low, high = place - 1e-9, place + 1e-9
        assert split.share(low, high, seed=1234567).holds(0, 3).tolist() == [n == number for n in range(3)]


def test_a_stream_that_ends_too_early_is_told_of():
    split = StreamSplit(lambda start: numbers(start, 5), length=9)
    with pytest.raises(RowFailure) as failure:
        drawn(Cursor(split, seed=0), 9)
    assert failure.value.told("train") == "Split 'train' ended after 5 rows, and its length is said to be 9."


def test_a_stream_may_be_longer_than_its_passes():
    assert drawn(Cursor(StreamSplit(numbers, length=3), seed=0), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_a_pass_without_a_row_is_told_of_and_not_gone_over_for_ever():
    split = stream(20, known=False).share(0.5, 0.5, seed=0)
    with pytest.raises(RowFailure) as failure:
        Cursor(split, seed=0).draw()
    assert failure.value.told("train") == "Split 'train' has no row, in a pass over 20 rows of its stream."
    assert Cursor(split, seed=None).draw() is None


@pytest.mark.parametrize("is_opened", [True, False])
def test_what_a_stream_raises_is_told_of_with_the_number_of_the_row(is_opened):
    def rows_from(start):
        if not is_opened:
            raise OSError("no such file")
        yield from numbers(start, 3)
        raise OSError("no such file")

    with pytest.raises(RowFailure) as failure:
        drawn(Cursor(StreamSplit(rows_from), seed=0), 5)
    row = 3 if is_opened else 0
    assert failure.value.told("test") == f"Row {row} of 'test' raised OSError: no such file."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rows_from": [1, 2]}, "takes a function .* received list"),
        ({"rows_from": numbers, "length": 0}, "The length of a StreamSplit is 1 row or more; received 0"),
        ({"rows_from": numbers, "shuffle": 0}, "The shuffle of a StreamSplit is 1 row or more"),
    ],
)
def test_what_is_no_stream_is_refused(arguments, said):
    with pytest.raises(DataError, match=said):
        StreamSplit(**arguments)
