"""The conformance kit: what a plugin promises, as tests in its author's own pytest.

One line tests a component that is installed, or a class::

    import mtlkit.testing

    test_conformance = mtlkit.testing.conformance("acme-mtl:digits")

Every check is a test of its own with a readable name. A failure says what was wrong, what was received, and what would
work. A check that cannot hold is declared, with the reason, and is strict: once it holds, the declaration fails::

    test_conformance = mtlkit.testing.conformance(
        "acme-mtl:census", expected_failures={"splits_are_disjoint": "people of equal rows are in both halves"}
    )

pytest is not a dependency of mtlkit: a plugin lists it among what its own tests need.
"""

from mtlkit.testing.checks import Check, Nonconformance
from mtlkit.testing.suite import checks_of, conformance

__all__ = ["Check", "Nonconformance", "checks_of", "conformance"]
