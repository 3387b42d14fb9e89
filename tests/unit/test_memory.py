"""How much memory there may be, what asks for more of it, and the errors that say so."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from mtlkit import memory
from mtlkit.memory import Budget, ran_out, total


def failing(make):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each is another
        make()
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(2**60),
        lambda: torch.empty(2**40, 2**40),
        lambda: torch.empty(2**64),
        lambda: torch.zeros(10**400),
        lambda: nn.Linear(10**12, 10**12),
        lambda: torch.zeros(3).expand(2**55, 3).contiguous(),
        lambda: bytearray(2**62),
        lambda: [0] * 2**63,
    ],
)
def test_what_asks_for_more_than_there_is_has_run_out(make):
    assert ran_out(failing(make))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 3) @ torch.zeros(2, 3),
        lambda: torch.zeros(3).reshape(2),
        lambda: int("x"),
        lambda: {}["memory"],
        lambda: nn.Embedding(3, 2)(torch.tensor([7])),
        lambda: torch.zeros(2, dtype=torch.int8).bogus,
    ],
)
def test_other_errors_have_not(make):
    assert not ran_out(failing(make))


def test_a_machine_has_some():
    assert 2**26 < total() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_container_may_have_less(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    before = total()
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert total() == before
    (tmp_path / "memory.max").write_text("100000000\n", encoding="utf-8")
    assert total() == 10**8


class TestBudget:
    @pytest.fixture(autouse=True)
    def one_megabyte(self, monkeypatch):
        monkeypatch.setattr(memory, "total", lambda: 10**6)

    def test_what_fits_is_made_as_ever(self):
        torch.manual_seed(0)
        expected = nn.Linear(100, 100).weight
        torch.manual_seed(0)
        with Budget():
            found = nn.Linear(100, 100).weight
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("make", [torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn])
    def test_what_does_not_is_refused_before_it_is_made(self, make):
        with Budget(), pytest.raises(torch.OutOfMemoryError, match=r"0.004 GB are asked for, and .* may have 0.001 GB"):
            make(10**6)

    def test_all_that_is_made_counts(self):
        with Budget(), pytest.raises(torch.OutOfMemoryError):
            nn.Sequential(*(nn.Linear(100, 100) for _ in range(30)))

    def test_a_size_that_no_machine_can_count(self):
        with Budget():
            assert ran_out(failing(lambda: torch.empty(2**40, 2**40)))

    def test_what_is_on_no_device_costs_nothing(self):
        with Budget():
            assert torch.empty(10**9, device="meta").shape == (10**9,)
