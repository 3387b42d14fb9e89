"""Check: one promise that a component keeps, and how a broken one is told of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtlkit.testing.subject import Subject

__all__ = ["Check", "Checks", "Nonconformance", "require"]


class Nonconformance(AssertionError):  # noqa: N818 - a test fails by it, and there it reads as what it is
    """A component does not keep one of its promises."""


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        name: What a test report calls it, such as ``loss_is_a_scalar``.
        promise: The promise, in a sentence.
        run: Raises Nonconformance if the subject does not keep it.
    """

    name: str
    promise: str
    run: Callable[[Subject], None]


class Checks(list[Check]):
    """The checks of one kind, in order; an instance is the decorator that adds a function to them."""

    def __call__(self, function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        """Add a function: its name is the check's, and the first line of its docstring the promise."""
        promise = (function.__doc__ or "").strip().partition("\n")[0]
        self.append(Check(function.__name__, promise, function))
        return function


def require(condition: object, what: str, remedy: str = "") -> None:
    """Raise Nonconformance unless the condition holds.

    Args:
        condition: What must be true.
        what: What is wrong, what was received included; a sentence without its full stop.
        remedy: What would work; sentences.
    """
    __tracebackhide__ = True
    if not condition:
        raise Nonconformance(f"{what}.{f' {remedy}' if remedy else ''}")
