"""Data: the splits of a source, and the batches that are drawn from them."""

from mtlkit.data.in_memory import InMemoryStream
from mtlkit.data.map_split import MapSplit
from mtlkit.data.mixing import Mixing
from mtlkit.data.order import Order
from mtlkit.data.rows import Rows
from mtlkit.data.sampling import class_weights, row_weights
from mtlkit.data.splits import carve, derived_seed, describe
from mtlkit.data.stream import Stream
from mtlkit.data.stream_split import StreamSplit

__all__ = [
    "InMemoryStream",
    "MapSplit",
    "Mixing",
    "Order",
    "Rows",
    "Stream",
    "StreamSplit",
    "carve",
    "class_weights",
    "derived_seed",
    "describe",
    "row_weights",
]
