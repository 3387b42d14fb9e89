"""Encoders: one file each; ``base.py`` is the contract."""

from mtlkit.encoders.base import Encoder
from mtlkit.encoders.cnn import CNN
from mtlkit.encoders.mlp import MLP

__all__ = ["CNN", "MLP", "Encoder"]
