"""Heads for task authors to use: ``Task.head`` may return one of these, or any module of its own."""

from mtlkit.heads.linear import Linear
from mtlkit.heads.mlp import MLP

__all__ = ["MLP", "Linear"]
