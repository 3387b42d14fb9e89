"""Reading a checkpoint: nothing of it is believed before the manifest vouches for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mtlkit.engine.checkpoint.manifest import SCHEMA_VERSION, file_hash
from mtlkit.engine.checkpoint.packing import unpack
from mtlkit.engine.checkpoint.place import recover
from mtlkit.engine.storage import storage_errors
from mtlkit.errors import CheckpointError

__all__ = ["load_state", "load_weights", "read_weights", "verify"]


def verify(folder: Path) -> int:
    """Check that a checkpoint is whole, and return the step it was taken at.

    Raises:
        CheckpointError: If it is not, naming the file and what is wrong with it.
    """
    with storage_errors("read the checkpoint"):
        recover(folder)
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no manifest: {error!r}.") from error
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{folder} has schema version {version}, and this mtlkit reads version {SCHEMA_VERSION}. Use the mtlkit "
            "that wrote it, which the run's environment.json names."
        )
    try:
        step, hashes = int(manifest["step"]), dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"{path} is no manifest: {error!r}.") from error
    if "weights.safetensors" not in hashes:
        raise CheckpointError(f"{path} does not vouch for weights.safetensors.")
    for name, expected in hashes.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{file} is missing from the checkpoint.")
        if file_hash(file) != expected:
            raise CheckpointError(f"{file} is damaged: its SHA-256 is not the one in manifest.json.")
    return step


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a verified checkpoint's weights by name.

    Raises:
        CheckpointError: If they cannot be read.
    """
    path = folder / "weights.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load a verified checkpoint's weights into a model.

    Raises:
        CheckpointError: If they are not this model's.
    """
    weights = read_weights(folder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / 'weights.safetensors'} does not fit this model: {error}") from error


def load_state(folder: Path) -> Any:
    """Return what :func:`save` was given as `state`.

    Raises:
        CheckpointError: If it cannot be read.
    """
    try:
        tensors = load_file(folder / "state.safetensors")
        return unpack(json.loads((folder / "state.json").read_text(encoding="utf-8")), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"The state in {folder} cannot be read: {error}.") from error
