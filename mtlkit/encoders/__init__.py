"""Encoders: one file each; ``base.py`` is the contract."""

from mtlkit.encoders.base import Encoder
from mtlkit.encoders.cnn import CNN
from mtlkit.encoders.identity import Identity
from mtlkit.encoders.mlp import MLP
from mtlkit.encoders.resnet import ResNet
from mtlkit.encoders.tabular import Tabular
from mtlkit.encoders.transformer import Transformer
from mtlkit.encoders.vit import ViT

__all__ = ["CNN", "MLP", "Encoder", "Identity", "ResNet", "Tabular", "Transformer", "ViT"]
