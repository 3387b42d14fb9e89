"""Stems: what brings the rows of sources that differ to one encoder. One file each; ``base.py`` is the contract."""

from mtlkit.stems.base import Chain, Stem
from mtlkit.stems.embed import Embed
from mtlkit.stems.flatten import Flatten
from mtlkit.stems.linear import Linear
from mtlkit.stems.patch import Patch
from mtlkit.stems.resize import Resize

__all__ = ["STEMS", "Chain", "Embed", "Flatten", "Linear", "Patch", "Resize", "Stem"]

STEMS: dict[str, type[Stem]] = {
    "embed": Embed,
    "flatten": Flatten,
    "linear": Linear,
    "patch": Patch,
    "resize": Resize,
}
"""The stems that a configuration can name. A plugin that needs another one gives it by ``Source.stem``."""
