"""Student's t against SciPy, and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtlkit.report.statistics import interval, t_quantile

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.5, 0.9999), st.integers(1, 200))
def test_the_quantile_is_that_of_scipy(probability, freedom):
    assert t_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_the_quantile_is_that_of_the_tables(freedom, quantile):
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-5)


def test_the_median_is_0():
    assert t_quantile(0.5, 3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 10, 11])
def test_the_far_tail(freedom):
    assert t_quantile(1 - 1e-9, freedom) == pytest.approx(stats.t.isf(1e-9, freedom), rel=1e-5)


def test_a_very_large_number_of_values_is_all_but_normal():
    assert t_quantile(0.975, 10_001) == pytest.approx(1.96, abs=1e-3)


@settings(max_examples=100, deadline=None)
@given(VALUES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_that_of_scipy(values, confidence):
    low, high = interval(values, confidence)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = sum(values) / len(values)
    half = error * float(stats.t.ppf((1 + confidence) / 2, len(values) - 1))
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-6, abs=1e-6)


def test_an_interval_by_hand():
    # mean 2, standard deviation 1, t(0.975, 2) = 4.3027: 2 -+ 4.3027 / sqrt(3)
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4842, 2 + 2.4842), abs=1e-4)


def test_equal_values_have_an_interval_of_one_point():
    assert interval([0.25, 0.25, 0.25]) == (0.25, 0.25)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [math.inf, 1.0, 2.0], [math.nan]])
def test_without_two_finite_values_there_is_none(values):
    assert interval(values) is None
