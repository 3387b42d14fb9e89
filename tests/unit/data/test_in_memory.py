"""Streams of rows in memory: endless batches whose position is their whole state."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import Split
from mtlkit.data import InMemoryStream, Order

SIZES = st.integers(1, 30)
SEEDS = st.integers(0, 2**63 - 1)
SEEN = settings(max_examples=60, deadline=None)


def stream(rows=10, batch_size=4, seed=0):
    numbers = torch.arange(rows)
    split = Split(numbers[:, None].float(), {"number": numbers})
    return InMemoryStream(split, Order(rows, seed=seed), batch_size=batch_size)


def draw(source, batches):
    return [source.next().targets["number"].tolist() for _ in range(batches)]


@SEEN
@given(SIZES, SIZES, SEEDS)
def test_every_batch_has_the_same_size_and_the_rows_come_in_their_order(rows, batch_size, seed):
    source = stream(rows, batch_size, seed)
    size = min(rows, batch_size)
    batches = draw(source, 2 * rows)
    assert {len(batch) for batch in batches} == {size}
    assert list(chain.from_iterable(batches)) == Order(rows, seed=seed).rows(0, 2 * rows * size).tolist()


@SEEN
@given(SIZES, SIZES, SEEDS, st.integers(0, 20))
def test_the_state_is_all_it_takes_to_go_on(rows, batch_size, seed, drawn):
    straight = stream(rows, batch_size, seed)
    draw(straight, drawn)
    resumed = stream(rows, batch_size, seed)
    resumed.restore(straight.state())
    assert draw(resumed, 5) == draw(straight, 5)


def test_a_stream_may_go_back():
    source = stream()
    start = source.state()
    first = draw(source, 7)
    source.restore(start)
    assert draw(source, 7) == first


@pytest.mark.parametrize("state", [{}, {"position": None}, {"position": "far"}])
def test_what_is_no_state_is_refused(state):
    with pytest.raises((KeyError, TypeError, ValueError)):
        stream().restore(state)


def test_a_closed_stream_goes_on_where_it_was():
    source, closed = stream(), stream()
    draw(source, 3)
    draw(closed, 3)
    closed.close()
    assert draw(closed, 3) == draw(source, 3)


def test_rows_stay_whole():
    batch = stream().next()
    assert batch.inputs[:, 0].tolist() == batch.targets["number"].tolist()


def test_the_number_of_batches_in_a_pass():
    assert stream(10, 4).batches == 3
    assert stream(10, 5).batches == 2
    assert stream(10, 100).batches == 1
    assert stream(10, 100).batch_size == 10


def test_another_stream_draws_the_same_rows_in_an_order_of_its_own():
    source = stream(30, 7, seed=3)
    draw(source, 2)
    names = ("held out", "held out", "else")
    first, again, other = (draw(source.another(name), 30) for name in names)
    assert first == again  # from the beginning, wherever the stream is
    assert first != other
    assert first != draw(stream(30, 7, seed=3), 30)
    assert sorted(chain.from_iterable(first)) == sorted(list(range(30)) * 7)
