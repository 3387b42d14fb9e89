"""NotFinite: a solver was given numbers that overflowed on the way to it."""

from __future__ import annotations

__all__ = ["NotFinite"]


class NotFinite(ValueError):  # noqa: N818 - what it is about, and a ValueError to whoever calls a solver
    """What is to be solved holds NaN or infinity."""
