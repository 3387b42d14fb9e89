"""Reading a checkpoint: nothing of it is believed before the manifest vouches for it, and nothing of it is run.

A file is read once, and its hash is that of the bytes that are then used. Files that the manifest does not name are
never opened, so whatever else is in the folder changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mtlkit.engine.checkpoint.manifest import MAX_BYTES, Manifest, stream_hash
from mtlkit.engine.checkpoint.migrations import MIGRATIONS, SCHEMA_VERSION
from mtlkit.engine.checkpoint.packing import unpack
from mtlkit.engine.checkpoint.tensorfile import parse_tensors, read_whole, require_room
from mtlkit.engine.regular import open_folder, open_regular, read_regular
from mtlkit.errors import CheckpointError
from mtlkit.plainjson import loads

__all__ = ["MAX_STATE", "load_state", "load_weights", "read_hashed_weights", "read_weights", "verify"]

MAX_STATE = 16 * 2**20
"""How long a ``state.json`` can be, in bytes; tensors are not in it."""


def verify(folder: Path) -> int:
    """Check that a checkpoint is whole, and return the step it was taken at.

    Raises:
        CheckpointError: If it is not, naming the file and what is wrong with it.
    """
    with open_folder(folder) as descriptor:
        manifest = _manifest(folder, descriptor)
        for name in manifest.files:
            with _vouched(folder, descriptor, manifest, name) as file:
                _compare(folder, manifest, name, stream_hash(file))
    return manifest.step


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return a checkpoint's weights by name.

    Raises:
        CheckpointError: If they are not those that it was written with.
    """
    return read_hashed_weights(folder)[0]


def read_hashed_weights(folder: Path) -> tuple[dict[str, Tensor], str]:
    """Return a checkpoint's weights by name, and the SHA-256 of the file that they are from.

    Raises:
        CheckpointError: If they are not those that it was written with.
    """
    name = "weights.safetensors"
    with open_folder(folder) as descriptor:
        manifest = _manifest(folder, descriptor)
        weights: Mapping[str, Tensor] = _tensors(folder, descriptor, manifest, name)
    for older in range(manifest.schema_version, SCHEMA_VERSION):
        weights = MIGRATIONS[older].weights(weights)
    return dict(weights), manifest.files[name].sha256


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load a checkpoint's weights into a model.

    Raises:
        CheckpointError: If they are not those that it was written with, or not this model's.
    """
    weights, own = read_weights(folder), model.state_dict()
    path = folder / "weights.safetensors"
    different = [name for name in own if name not in weights or _kind(weights[name]) != _kind(own[name])]
    different += [name for name in weights if name not in own]
    if different:
        name = different[0]
        has, needs = (f"a {_kind(each[name])}" if name in each else "nothing" for each in (weights, own))
        more = f", and {len(different) - 1} more differ" if len(different) > 1 else ""
        raise CheckpointError(
            f"{path} does not fit this model: of {name!r:.200} it holds {has}, and the model has {needs}{more}."
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error


def load_state(folder: Path) -> Any:
    """Return what :func:`save` was given as `state`.

    Raises:
        CheckpointError: If it is not what the checkpoint was written with.
    """
    path = folder / "state.json"
    with open_folder(folder) as descriptor:
        manifest = _manifest(folder, descriptor)
        tensors = _tensors(folder, descriptor, manifest, "state.safetensors")
        with _vouched(folder, descriptor, manifest, path.name) as file:
            raw = file.read(MAX_STATE + 1)
        if len(raw) > MAX_STATE:
            raise CheckpointError(f"{path} is too large: it has more than {MAX_STATE} bytes.")
        _compare(folder, manifest, path.name, hashlib.sha256(raw).hexdigest())
    try:
        packed = loads(raw, constants=True)  # as the first schema has them; unpack() takes none
        for older in range(manifest.schema_version, SCHEMA_VERSION):
            packed = MIGRATIONS[older].state(packed)
        return unpack(packed, tensors)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no state of a run: {error}.") from error


def _manifest(folder: Path, descriptor: int) -> Manifest:
    path = folder / "manifest.json"
    return Manifest.from_bytes(read_regular(path, MAX_BYTES, folder=descriptor), path)


def _tensors(folder: Path, descriptor: int, manifest: Manifest, name: str) -> dict[str, Tensor]:
    with _vouched(folder, descriptor, manifest, name) as file:
        raw = read_whole(file, folder / name)
    _compare(folder, manifest, name, hashlib.sha256(raw).hexdigest())
    return parse_tensors(raw, folder / name)


@contextmanager
def _vouched(folder: Path, descriptor: int, manifest: Manifest, name: str) -> Iterator[BufferedReader]:
    """Open a file that the manifest vouches for, and that is as long as it says."""
    path = folder / name
    if name not in manifest.files:
        raise CheckpointError(f"{folder} has no {name}: its manifest.json does not vouch for one.")
    expected = manifest.files[name].bytes
    with open_regular(path, folder=descriptor) as file:
        size = require_room(file, path)
        if expected is not None and size != expected:
            raise CheckpointError(f"{path} is damaged: it has {size} bytes, and manifest.json says {expected}.")
        yield file


def _compare(folder: Path, manifest: Manifest, name: str, sha256: str) -> None:
    if manifest.files[name].sha256 != sha256:
        raise CheckpointError(f"{folder / name} is damaged: its SHA-256 is not the one in manifest.json.")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
