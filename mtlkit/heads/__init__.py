"""Heads for task authors to use: ``Task.head`` may return one of these, or any module of its own."""

from mtlkit.heads.bank import HeadBank
from mtlkit.heads.binary import Binary
from mtlkit.heads.linear import Linear
from mtlkit.heads.mlp import MLP
from mtlkit.heads.multi_label import MultiLabel
from mtlkit.heads.reconstruction import Reconstruction
from mtlkit.heads.regression import Regression
from mtlkit.heads.segmentation import Segmentation
from mtlkit.heads.tagging import Tagging

__all__ = [
    "MLP",
    "Binary",
    "HeadBank",
    "Linear",
    "MultiLabel",
    "Reconstruction",
    "Regression",
    "Segmentation",
    "Tagging",
]
