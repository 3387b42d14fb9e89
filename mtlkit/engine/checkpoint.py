"""Checkpoints: folders of safetensors and JSON with a manifest of hashes. There is no pickle, so none can run code.

``weights.safetensors`` holds the model, ``state.safetensors`` and ``state.json`` everything else that the run needs to
go on bit for bit, ``manifest.json`` the schema version, the step, and the SHA-256 of each file. A checkpoint is written
to a temporary sibling and renamed when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mtlkit.engine.storage import storage_errors, sync
from mtlkit.errors import CheckpointError

__all__ = ["SCHEMA_VERSION", "load_state", "load_weights", "read_weights", "recover", "save", "verify"]

SCHEMA_VERSION = 1


def save(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    state: Mapping[str, Any] | None = None,
    plugins: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a checkpoint, in place of an older one of the same name.

    Args:
        folder: Where it will be.
        step: The step it was taken at.
        model: What the weights are of.
        state: What else is to be kept: nested dicts, lists and tuples of tensors, numbers, strings and None.
        plugins: What the manifest says of the plugins that took part.

    Raises:
        StorageError: If it cannot be written; an older one of the same name is then untouched.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    with storage_errors("write the checkpoint"):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            save_file(_separate(model.state_dict()), temporary / "weights.safetensors")
            if state is not None:
                tensors: dict[str, Tensor] = {}
                plain = _pack(state, tensors)
                save_file(_separate(tensors), temporary / "state.safetensors")
                (temporary / "state.json").write_text(json.dumps(plain), encoding="utf-8")
            hashes = {path.name: _hash(path) for path in sorted(temporary.iterdir())}
            manifest = {"schema_version": SCHEMA_VERSION, "step": step, "sha256": hashes, "plugins": list(plugins)}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            for path in temporary.iterdir():
                sync(path)
            _replace(folder, temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _replace(folder: Path, temporary: Path) -> None:
    """Put a whole new folder in the place of an old one; wherever this is cut off, one of the two is left."""
    old = _old(folder)
    recover(folder)
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    except BaseException:
        recover(folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put an older checkpoint back that was moved away for a newer one which never came."""
    old = _old(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


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
        if _hash(file) != expected:
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
        return _unpack(json.loads((folder / "state.json").read_text(encoding="utf-8")), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"The state in {folder} cannot be read: {error}.") from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that share no memory, which is what the format takes."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


# JSON has no tuples, no tensors, and no dicts with integer keys, all of which optimizers keep in their state: each is
# written as a mapping with one key that starts with '$'.


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, Mapping):
        items = [[key, _pack(item, tensors)] for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$items": items}
    if isinstance(value, tuple):
        return {"$tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_pack(item, tensors) for item in value]
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_unpack(value["$tuple"], tensors))
    if "$items" in value:
        return {key: _unpack(item, tensors) for key, item in value["$items"]}
    return {key: _unpack(item, tensors) for key, item in value.items()}
