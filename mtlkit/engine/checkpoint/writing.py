"""Writing a checkpoint: to a temporary sibling, each file on the disk, then into its place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mtlkit.engine.checkpoint.manifest import Manifest, Vouched
from mtlkit.engine.checkpoint.place import replace
from mtlkit.engine.checkpoint.snapshot import Snapshot
from mtlkit.engine.storage import storage_errors, sync, temporary_of, write_file

__all__ = ["save", "write"]


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
    with storage_errors("write the checkpoint"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(folder, Snapshot.take(step, model, state, plugins=plugins))


def write(folder: Path, snapshot: Snapshot, *, go_on: Callable[[], None] = lambda: None) -> None:
    """Write a snapshot as a checkpoint, in place of an older one of the same name, into a folder that exists.

    Args:
        folder: Where it will be.
        snapshot: What it will hold.
        go_on: Is called again and again, and may raise to break off: nothing is then changed.

    Raises:
        OSError: If it cannot be written; an older one of the same name is then untouched.
    """
    temporary = temporary_of(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        files = {
            name: Vouched(*write_file(temporary / name, _watched(content, go_on)))
            for name, content in snapshot.files.items()
        }
        write_file(temporary / "manifest.json", [Manifest(snapshot.step, files, snapshot.plugins).to_bytes()])
        sync(temporary)
        go_on()
        replace(folder, temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _watched(content: Iterable[bytes | memoryview], go_on: Callable[[], None]) -> Iterator[bytes | memoryview]:
    for piece in content:
        go_on()
        yield piece
