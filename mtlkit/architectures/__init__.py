"""Architectures, how tasks share: one file each; ``base.py`` is the contract."""

from mtlkit.architectures.base import Architecture
from mtlkit.architectures.cgc import CGC
from mtlkit.architectures.dselect_k import DSelectK
from mtlkit.architectures.hard_sharing import HardSharing
from mtlkit.architectures.mmoe import MMoE
from mtlkit.architectures.ple import PLE

__all__ = ["CGC", "PLE", "Architecture", "DSelectK", "HardSharing", "MMoE"]
