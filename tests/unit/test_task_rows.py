"""The tasks' gradients as rows: one tensor or two, in any order, they are the same."""

from __future__ import annotations

import pytest
import torch

from mtlkit.gradients.task_rows import TaskRows

SIZES = [3, 1, 4]


def rows_of(gradients, order, *, at_once=False):
    """Return the rows of some gradients ``[K, P]``, taken in an order."""
    rows = TaskRows(len(gradients), gradients.shape[1], gradients.dtype, gradients.device, at_once=at_once)
    if at_once:
        rows.body.copy_(gradients)
    else:
        for task in order:
            rows.take(task, gradients[task].split(SIZES))
    return rows


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0], [2, 1, 0]])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_taken_one_by_one_they_are_those_of_one_tensor(order, scale, dtype):
    gradients = scale * torch.randn(3, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    rows, expected = rows_of(gradients, order), rows_of(gradients, order, at_once=True)
    assert torch.equal(rows.dense(), gradients)
    torch.testing.assert_close(rows.gramian(), expected.gramian(), rtol=1e-6, atol=0)
    doubles = gradients.double()
    torch.testing.assert_close(rows.gramian(), doubles @ doubles.T, rtol=1e-4, atol=0)
    factors = [0.5, -2.0, 3.0]
    torch.testing.assert_close(rows.combined(factors), torch.tensor(factors, dtype=dtype) @ gradients)
    torch.testing.assert_close(expected.combined(factors), torch.tensor(factors, dtype=dtype) @ gradients)


def test_a_task_alone():
    gradient = torch.arange(8.0)[None]
    rows = rows_of(gradient, [0])
    assert torch.equal(rows.dense(), gradient)
    assert rows.gramian().item() == pytest.approx(140.0, rel=1e-6)
    assert torch.equal(rows.combined([2.0]), 2 * gradient[0])


def test_equal_gradients_have_equal_products():
    gradients = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    diagonal = rows_of(gradients, [1, 2, 0]).gramian().diagonal().tolist()
    assert len(set(diagonal)) == 1


def test_many_tasks_and_long_rows():
    """More than are worked out in plain numbers, and longer than one product takes."""
    gradients = torch.randn(12, 200_003, generator=torch.Generator().manual_seed(0))
    rows = TaskRows(12, 200_003, torch.float32, gradients.device, at_once=False)
    for task in reversed(range(12)):
        rows.take(task, [gradients[task]])
    doubles = gradients.double()
    torch.testing.assert_close(rows.gramian(), doubles @ doubles.T, rtol=1e-5, atol=1e-2)
