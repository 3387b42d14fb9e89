"""Streams: endless batches whose position is their whole state."""

from __future__ import annotations

from itertools import chain

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import Split
from mtlkit.data import Stream

SIZES = st.integers(1, 30)
SEEDS = st.integers(0, 2**63 - 1)
SEEN = settings(max_examples=60, deadline=None)


def stream(rows=10, batch_size=4, seed=0):
    numbers = torch.arange(rows)
    return Stream(Split(numbers[:, None].float(), {"number": numbers}), batch_size=batch_size, seed=seed)


def draw(source, batches):
    return [source.next().targets["number"].tolist() for _ in range(batches)]


@SEEN
@given(SIZES, SIZES, SEEDS)
def test_every_batch_has_the_same_size_and_every_pass_holds_each_row_once(rows, batch_size, seed):
    source = stream(rows, batch_size, seed)
    size = min(rows, batch_size)
    batches = draw(source, 3 * rows)
    assert {len(batch) for batch in batches} == {size}
    drawn = list(chain.from_iterable(batches))
    assert source.position == len(drawn)
    for start in range(0, len(drawn) - rows + 1, rows):
        assert sorted(drawn[start : start + rows]) == list(range(rows))


@SEEN
@given(SIZES, SIZES, SEEDS, st.integers(0, 20))
def test_the_position_is_the_whole_state(rows, batch_size, seed, drawn):
    straight = stream(rows, batch_size, seed)
    draw(straight, drawn)
    resumed = stream(rows, batch_size, seed)
    resumed.position = straight.position
    assert draw(resumed, 5) == draw(straight, 5)


def test_a_stream_may_go_back():
    source = stream()
    first = draw(source, 7)
    source.position = 0
    assert draw(source, 7) == first


def test_passes_differ_and_so_do_seeds():
    passes = draw(stream(rows=20, batch_size=20), 3)
    assert len({tuple(each) for each in passes}) == 3
    assert draw(stream(seed=1), 3) != draw(stream(seed=2), 3)
    assert draw(stream(seed=1), 3) == draw(stream(seed=1), 3)


@SEEN
@given(SIZES, SIZES)
def test_the_order_does_not_depend_on_the_batch_size(rows, batch_size):
    one = chain.from_iterable(draw(stream(rows, batch_size), 3 * rows))
    other = chain.from_iterable(draw(stream(rows, 1), 2 * rows))
    assert list(one)[: 2 * rows] == list(other)


def test_rows_stay_whole():
    batch = stream().next()
    assert batch.inputs[:, 0].tolist() == batch.targets["number"].tolist()


def test_the_number_of_batches_in_a_pass():
    assert stream(10, 4).batches == 3
    assert stream(10, 5).batches == 2
    assert stream(10, 100).batches == 1
    assert stream(10, 100).batch_size == 10


def test_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    first, before = draw(stream(), 3), torch.get_rng_state()
    torch.manual_seed(2)
    assert draw(stream(), 3) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
