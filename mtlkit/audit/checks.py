"""The list of checks: each a function that looks at one thing and yields what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mtlkit.audit.examined import Examined
from mtlkit.findings import Finding

__all__ = ["CHECKS", "Check", "check", "check_of_steps"]


class Check(NamedTuple):
    """One check.

    Attributes:
        name: What it is called.
        summary: What holds where it finds nothing.
        find: Yields what it finds.
        of_steps: Whether it looks at the first steps, rather than at rows.
    """

    name: str
    summary: str
    find: Callable[[Examined], Iterator[Finding]]
    of_steps: bool


CHECKS: list[Check] = []
"""Every check, in the order in which they are told of."""

_Find = Callable[[Examined], Iterator[Finding]]


def check(find: _Find) -> _Find:
    """Add a function that looks at rows to the list; the first line of its docstring is the summary."""
    return _added(find, of_steps=False)


def check_of_steps(find: _Find) -> _Find:
    """Add a function that looks at the first steps, which are taken where no check of rows finds an error."""
    return _added(find, of_steps=True)


def _added(find: _Find, *, of_steps: bool) -> _Find:
    CHECKS.append(Check(find.__name__, (find.__doc__ or "").partition("\n")[0].rstrip("."), find, of_steps))
    return find
