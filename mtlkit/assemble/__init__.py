"""Assemble: from a resolved configuration to built objects, the one bridge between names and maths."""

from mtlkit.assemble.build import build
from mtlkit.assemble.refusals import trying

__all__ = ["build", "trying"]
