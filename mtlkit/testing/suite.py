"""conformance(): the checks of a component, as one parametrized pytest function."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtlkit.errors import closest
from mtlkit.specs import InputSpec
from mtlkit.testing.checks import Check, Nonconformance
from mtlkit.testing.subject import Subject

__all__ = ["checks_of", "conformance"]


def checks_of(kind: str) -> list[Check]:
    """Return the checks of one kind of component, in the order that they run in.

    Args:
        kind: One of :data:`~mtlkit.hookspecs.KINDS`.
    """
    every = importlib.import_module("mtlkit.testing.every").CHECKS
    own = importlib.import_module(f"mtlkit.testing.{kind}").CHECKS
    return [*every, *own]


def conformance(
    component: str | type,
    *,
    kind: str | None = None,
    options: Mapping[str, Any] | None = None,
    inputs: Sequence[tuple[int, ...] | InputSpec] = (),
    expected_failures: Mapping[str, str] | None = None,
    import_seconds: float = 5.0,
) -> Callable[..., None]:
    """Return a pytest test of everything that a component of its kind promises.

    Args:
        component: The name of a component that is installed, best its qualified one, or a class.
        kind: One of ``tasks``, ``encoders``, ``architectures``, ``strategies``, ``plugins``, ``commands``; needed only
            where components of two kinds share the name.
        options: The options to test it with; the others keep their defaults.
        inputs: The shapes of rows that an encoder or an architecture is tried with, or for rows of parts, categories or
            tokens an :class:`~mtlkit.specs.InputSpec`; some usual ones by default, of which it may refuse all but one.
        expected_failures: The checks that cannot hold, by name, each with the reason. A check that holds after all
            fails.
        import_seconds: How long the component's module may take to import, torch not counted.

    Raises:
        MtlkitError: If there is no such component.
        ValueError: If an expected failure names no check.
    """
    import pytest  # noqa: PLC0415 - a plugin's tests have it, and mtlkit does not require it

    subject = Subject.of(
        component,
        kind=kind,
        options=options or {},
        inputs=[each if isinstance(each, InputSpec) else InputSpec(tuple(each)) for each in inputs],
        import_seconds=import_seconds,
    )
    checks = checks_of(subject.kind)
    expected = dict(expected_failures or {})
    for name in expected:
        if name not in {check.name for check in checks}:
            raise ValueError(f"No check is called '{name}'. {closest(name, [check.name for check in checks])}")

    def marks(check: Check) -> list[pytest.MarkDecorator]:
        if check.name not in expected:
            return []
        return [pytest.mark.xfail(strict=True, raises=Nonconformance, reason=expected[check.name])]

    @pytest.mark.parametrize("check", [pytest.param(check, id=check.name, marks=marks(check)) for check in checks])
    def test_conformance(check: Check) -> None:
        __tracebackhide__ = True
        check.run(subject)

    test_conformance.__doc__ = f"{subject.name} keeps what a component of the {subject.kind} promises."
    return test_conformance
