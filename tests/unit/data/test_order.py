"""The order of rows: a pure function of seed and position."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

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


class TestWeights:
    @SEEN
    @given(SEEDS, st.lists(st.tuples(st.integers(0, 100), st.integers(0, 70)), max_size=6))
    def test_rows_depend_on_the_position_alone_here_too(self, seed, asked):
        weights = torch.tensor([1.0, 0.0, 3.0, 0.5])
        order, whole = Order(4, seed=seed, weights=weights), Order(4, seed=seed, weights=weights).rows(0, 170)
        assert 1 not in whole.tolist()
        for position, count in asked:
            assert torch.equal(order.rows(position, count), whole[position : position + count])

    def test_are_how_often_each_row_is_drawn(self):
        weights = torch.tensor([1.0, 2.0, 0.0, 5.0, 0.25, 0.0]).double()
        counts = Order(6, seed=0, weights=weights).rows(0, 6000).bincount(minlength=6)
        assert counts[[2, 5]].tolist() == [0, 0]
        drawn = counts[weights > 0].tolist()
        expected = (6000 * weights / weights.sum())[weights > 0].tolist()
        assert chisquare(drawn, expected).pvalue > 0.01

    def test_may_be_on_any_scale(self):
        small = Order(3, seed=0, weights=torch.tensor([1e-30, 2e-30, 0.0])).rows(0, 50)
        large = Order(3, seed=0, weights=torch.tensor([1e30, 2e30, 0.0])).rows(0, 50)
        assert torch.equal(small, large)
        assert set(small.tolist()) == {0, 1}

    def test_go_with_another_order(self):
        order = Order(40, seed=0, weights=torch.arange(40.0) % 2)
        other = order.another("held out")
        assert set((other.rows(0, 400) % 2).tolist()) == {1}
        assert not torch.equal(other.rows(0, 40), order.rows(0, 40))
        assert torch.equal(order.another("held out").rows(0, 40), other.rows(0, 40))

    @pytest.mark.parametrize(
        ("weights", "what"),
        [
            ([1.0, 2.0], "one for each of 3 rows; received 2"),
            ([1.0, -2.0, 1.0], r"1 of 3 are not, such as -2\.0 of row 1"),
            ([1.0, 1.0, float("nan")], "such as nan of row 2"),
            ([float("inf"), 1.0, 1.0], "such as inf of row 0"),
            ([0.0, 0.0, 0.0], "every weight is 0"),
        ],
    )
    def test_that_cannot_be_are_refused(self, weights, what):
        with pytest.raises(ValueError, match=what):
            Order(3, seed=0, weights=torch.tensor(weights))
