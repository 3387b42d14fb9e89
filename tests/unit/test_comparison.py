"""Together against alone: gains with the right sign, and verdicts that do not overstate."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.report.comparison import Estimate, Headline, compare

ACCURACY = Headline("accuracy", higher_is_better=True)
ERROR = Headline("error", higher_is_better=False)
METRICS = st.floats(0.01, 100)


def one(headline, alone, together):
    """Compare a single task over as many seeds as there are values."""
    return compare(range(len(alone)), {"task": headline}, {"task": alone}, {"task": together}).tasks["task"]


@pytest.mark.parametrize(
    ("headline", "alone", "together", "gain"),
    [
        (ACCURACY, 0.80, 0.88, 10.0),
        (ACCURACY, 0.80, 0.60, -25.0),
        (ERROR, 2.0, 1.5, 25.0),
        (ERROR, 2.0, 3.0, -50.0),
        (ACCURACY, 0.5, 0.5, 0.0),
        (ERROR, 0.5, 0.5, 0.0),
        (ACCURACY, -0.2, 0.1, 150.0),  # an R2 may be below zero, and rose here
        (ACCURACY, -0.2, -0.4, -100.0),
        (ERROR, -4.0, -5.0, 25.0),  # a log-likelihood loss may be below zero, and fell here
    ],
)
def test_a_gain_is_positive_where_together_is_better(headline, alone, together, gain):
    task = one(headline, [alone], [together])
    assert task.gain.mean == pytest.approx(gain)
    assert task.difference.mean == pytest.approx(together - alone)
    assert (task.alone.mean, task.together.mean) == (alone, together)


def test_delta_m_is_the_mean_of_the_gains():
    comparison = compare(
        [0, 1],
        {"digits": ACCURACY, "ink": ERROR},
        {"digits": [0.8, 0.5], "ink": [2.0, 4.0]},
        {"digits": [0.88, 0.4], "ink": [1.0, 5.0]},
    )
    # digits: +10 and -20 per cent; ink: +50 and -25 per cent
    assert comparison.tasks["digits"].gain.values == pytest.approx((10.0, -20.0))
    assert comparison.tasks["ink"].gain.values == pytest.approx((50.0, -25.0))
    assert comparison.delta_m.values == pytest.approx((30.0, -22.5))
    assert comparison.delta_m.mean == pytest.approx(3.75)
    assert comparison.seeds == (0, 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(METRICS, METRICS), min_size=1, max_size=5))
def test_turning_the_direction_turns_the_sign(pairs):
    alone, together = zip(*pairs, strict=True)
    up, down = one(ACCURACY, alone, together).gain, one(ERROR, alone, together).gain
    assert up.values == pytest.approx([-value for value in down.values])


@settings(max_examples=60, deadline=None)
@given(METRICS, METRICS, st.floats(1e-3, 1e3))
def test_the_unit_of_a_metric_does_not_matter(alone, together, unit):
    plain, scaled = one(ERROR, [alone], [together]), one(ERROR, [alone * unit], [together * unit])
    assert scaled.gain.mean == pytest.approx(plain.gain.mean, rel=1e-9, abs=1e-9)


def test_a_baseline_of_zero_has_no_relative_gain():
    comparison = compare([0], {"a": ERROR, "b": ERROR}, {"a": [0.0], "b": [1.0]}, {"a": [0.1], "b": [0.5]})
    assert math.isnan(comparison.tasks["a"].gain.mean)
    assert comparison.tasks["a"].difference.mean == pytest.approx(0.1)
    assert comparison.tasks["a"].gain.verdict == "no difference seen"
    assert math.isnan(comparison.delta_m.mean)
    assert comparison.delta_m.verdict == "no difference seen"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((5.0,), "helped"),  # one seed: the sign alone
        ((-5.0,), "hurt"),
        ((0.0,), "no difference seen"),
        ((4.0, 5.0, 6.0), "helped"),  # 5 -+ 2.48
        ((-4.0, -5.0, -6.0), "hurt"),
        ((1.0, 2.0, 3.0), "no difference seen"),  # 2 -+ 2.48
        ((-1.0, 10.0), "no difference seen"),
        ((1.0, 1.0), "helped"),
        ((0.0, 0.0, 0.0), "no difference seen"),
        ((math.nan,), "no difference seen"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_zero_out(values, verdict):
    assert Estimate(values).verdict == verdict


@pytest.mark.parametrize("values", [(math.nan, 5.0, 5.1), (5.0, math.inf)])
def test_values_that_are_not_finite_make_no_verdict(values):
    assert Estimate(values).verdict == "no difference seen"


def test_a_diverged_run_does_not_stop_the_comparison():
    comparison = compare(
        [0, 1],
        {"a": ERROR, "b": ACCURACY},
        {"a": [1.0, 1.0], "b": [1.0, 1.0]},
        {"a": [math.inf, 1.0], "b": [math.inf, 1.0]},
    )
    assert math.isnan(comparison.delta_m.mean)


def test_an_estimate_over_seeds_has_an_interval_and_one_of_a_single_seed_has_none():
    assert Estimate((1.0, 2.0, 3.0)).interval == pytest.approx((-0.4842, 4.4842), abs=1e-4)
    assert Estimate((1.0,)).interval is None


def test_what_json_prints():
    comparison = compare([7], {"a": ACCURACY}, {"a": [0.5]}, {"a": [0.75]})
    estimate = {"mean": 50.0, "interval": None, "values": [50.0]}
    assert json.loads(json.dumps(comparison.to_dict())) == {
        "seeds": [7],
        "tasks": {
            "a": {
                "metric": "accuracy",
                "higher_is_better": True,
                "alone": {"mean": 0.5, "interval": None, "values": [0.5]},
                "together": {"mean": 0.75, "interval": None, "values": [0.75]},
                "difference": {"mean": 0.25, "interval": None, "values": [0.25]},
                "gain": estimate,
                "verdict": "helped",
            }
        },
        "delta_m": estimate,
        "verdict": "helped",
    }


def test_every_seed_needs_both_values():
    with pytest.raises(ValueError, match="zip"):
        compare([0, 1], {"a": ERROR}, {"a": [1.0, 2.0]}, {"a": [1.0]})


def test_a_baseline_of_zero_has_a_verdict_but_no_relative_gain():
    comparison = compare([0, 1, 2], {"a": ACCURACY}, {"a": [0.0, 0.0, 0.0]}, {"a": [0.5, 0.5, 0.6]})
    assert comparison.tasks["a"].verdict == "helped"
    assert math.isnan(comparison.delta_m.mean)
    assert comparison.delta_m.verdict == "no difference seen"
