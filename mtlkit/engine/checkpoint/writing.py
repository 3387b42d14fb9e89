"""Writing a checkpoint: to a temporary sibling, each file on the disk, then into its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from mtlkit.engine.checkpoint.manifest import Manifest, Vouched, stream_hash
from mtlkit.engine.checkpoint.packing import pack
from mtlkit.engine.checkpoint.place import replace
from mtlkit.engine.storage import storage_errors, sync

__all__ = ["save"]


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
                plain = pack(state, tensors)
                save_file(_separate(tensors), temporary / "state.safetensors")
                (temporary / "state.json").write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")
            files = {path.name: _vouch(path) for path in temporary.iterdir()}
            (temporary / "manifest.json").write_bytes(Manifest(step, files, plugins).to_bytes())
            for path in temporary.iterdir():
                sync(path)
            replace(folder, temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _vouch(path: Path) -> Vouched:
    with path.open("rb") as file:
        return Vouched(path.stat().st_size, stream_hash(file))


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that share no memory, which is what the format takes."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
