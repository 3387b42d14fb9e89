"""Assemble: from a resolved configuration to built objects, the one bridge between names and maths."""

from mtlkit.assemble.build import build

__all__ = ["build"]
