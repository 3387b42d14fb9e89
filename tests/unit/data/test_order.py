"""The order of rows: a pure function of seed and position."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.data import Order

SIZES = st.integers(1, 30)
SEEDS = st.integers(0, 2**63 - 1)
SEEN = settings(max_examples=60, deadline=None)


@SEEN
@given(SIZES, SEEDS)
def test_every_pass_holds_each_row_once(n, seed):
    drawn = Order(n, seed=seed).rows(0, 4 * n).tolist()
    for start in range(0, 4 * n, n):
        assert sorted(drawn[start : start + n]) == list(range(n))


@SEEN
@given(SIZES, SEEDS, st.lists(st.tuples(st.integers(0, 100), st.integers(0, 70)), max_size=6))
def test_rows_depend_on_the_position_alone_whatever_was_asked_before(n, seed, asked):
    order, whole = Order(n, seed=seed), Order(n, seed=seed).rows(0, 170)
    for position, count in asked:
        assert torch.equal(order.rows(position, count), whole[position : position + count])


def test_passes_differ_and_so_do_seeds():
    passes = Order(20, seed=0).rows(0, 60).split(20)
    assert len({tuple(each.tolist()) for each in passes}) == 3
    assert not torch.equal(Order(20, seed=1).rows(0, 20), passes[0])
    assert torch.equal(Order(20, seed=0).rows(0, 20), passes[0])


def test_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Order(10, seed=0).rows(0, 12)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Order(10, seed=0).rows(0, 12), first)
