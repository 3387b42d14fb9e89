"""Data: the splits of a source, and the batches that are drawn from them."""

from mtlkit.data.rows import Rows
from mtlkit.data.splits import carve, derived_seed, describe
from mtlkit.data.stream import Stream

__all__ = ["Rows", "Stream", "carve", "derived_seed", "describe"]
