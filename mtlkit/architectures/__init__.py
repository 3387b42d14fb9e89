"""Architectures, how tasks share: one file each; ``base.py`` is the contract."""

from mtlkit.architectures.adapters import Adapters
from mtlkit.architectures.base import Architecture
from mtlkit.architectures.cgc import CGC
from mtlkit.architectures.cross_stitch import CrossStitch
from mtlkit.architectures.dselect_k import DSelectK
from mtlkit.architectures.hard_sharing import HardSharing
from mtlkit.architectures.lora import LoRA
from mtlkit.architectures.ltb import LTB
from mtlkit.architectures.mmoe import MMoE
from mtlkit.architectures.mtan import MTAN
from mtlkit.architectures.ple import PLE
from mtlkit.architectures.task_embedding import TaskEmbedding

__all__ = [
    "CGC",
    "LTB",
    "MTAN",
    "PLE",
    "Adapters",
    "Architecture",
    "CrossStitch",
    "DSelectK",
    "HardSharing",
    "LoRA",
    "MMoE",
    "TaskEmbedding",
]
