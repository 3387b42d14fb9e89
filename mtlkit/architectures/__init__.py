"""Architectures, how tasks share: one file each; ``base.py`` is the contract."""

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.hard_sharing import HardSharing

__all__ = ["Architecture", "HardSharing"]
