"""Checkpoints: folders of safetensors and JSON with a manifest of hashes. There is no pickle, so none can run code.

``weights.safetensors`` holds the model, ``state.safetensors`` and ``state.json`` everything else that the run needs to
go on bit for bit, ``manifest.json`` the schema version, the mtlkit that wrote it, the step, and the size and SHA-256 of
each file. A checkpoint is written to a temporary sibling and renamed when it is whole.
"""

from mtlkit.engine.checkpoint.manifest import SCHEMA_VERSION
from mtlkit.engine.checkpoint.place import clear, discard, standing
from mtlkit.engine.checkpoint.reading import load_state, load_weights, read_hashed_weights, read_weights, verify
from mtlkit.engine.checkpoint.snapshot import Snapshot
from mtlkit.engine.checkpoint.tensorfile import read_tensors
from mtlkit.engine.checkpoint.writing import save, write

__all__ = [
    "SCHEMA_VERSION",
    "Snapshot",
    "clear",
    "discard",
    "load_state",
    "load_weights",
    "read_hashed_weights",
    "read_tensors",
    "read_weights",
    "save",
    "standing",
    "verify",
    "write",
]
