"""Sampling: the weights by which classes are drawn alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mtlkit.data import Order, class_weights

SEEN = settings(max_examples=100, deadline=None)
rows = st.lists(st.tuples(st.integers(-2, 4), st.booleans()), min_size=1, max_size=40)


def test_by_hand():
    """Five labelled rows of two classes, three and two, and one without a label."""
    weights = class_weights(torch.tensor([7, 7, 7, 0, 0, 9]), torch.tensor([True] * 5 + [False]))
    assert weights.tolist() == pytest.approx([5 / 6, 5 / 6, 5 / 6, 5 / 4, 5 / 4, 1])


@SEEN
@given(rows)
def test_each_class_has_its_share_and_rows_without_a_label_theirs(drawn):
    classes, labelled = torch.tensor([each[0] for each in drawn]), torch.tensor([each[1] for each in drawn])
    weights = class_weights(classes, labelled)
    found = set(classes[labelled].tolist())
    for each in found:
        share = weights[labelled & (classes == each)].sum().item()
        assert share == pytest.approx(int(labelled.sum()) / len(found))
    assert weights[~labelled].tolist() == [1.0] * int((~labelled).sum())
    assert weights.sum().item() == pytest.approx(len(drawn))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_classes_may_be_of_any_dtype_that_holds_whole_numbers(dtype, shape):
    column = torch.tensor([0, 0, 0, 1]).to(dtype).reshape(shape)
    assert class_weights(column, torch.ones(4, dtype=torch.bool)).tolist() == pytest.approx([2 / 3] * 3 + [2])


def test_classes_are_drawn_alike():
    classes = torch.tensor([0] * 80 + [1] * 15 + [2] * 5)
    weights = class_weights(classes, torch.ones(100, dtype=torch.bool))
    counts = classes[Order(100, seed=0, weights=weights).rows(0, 3000)].bincount()
    assert chisquare(counts.tolist(), [1000] * 3).pvalue > 0.01


@pytest.mark.parametrize(
    ("column", "what"),
    [(torch.tensor([0.5, 1.0]), "not whole"), (torch.zeros(2, 3), r"holds \[3\] values a row")],
)
def test_what_holds_no_classes_is_refused(column, what):
    with pytest.raises(ValueError, match=what):
        class_weights(column, torch.ones(2, dtype=torch.bool))
