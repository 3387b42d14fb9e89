"""Pretrained: the weights that a configuration has its encoder start from, read from a file or from another run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mtlkit.engine import checkpoint
from mtlkit.engine.run import RunFolder
from mtlkit.engine.storage import storage_errors
from mtlkit.errors import CheckpointError
from mtlkit.resolve import Resolved
from mtlkit.yamlfile import SettingPath

__all__ = ["Pretrained", "read"]

_PATH: SettingPath = ("transfer", "pretrained")
_PICKLES = {".bin", ".ckpt", ".pkl", ".pt", ".pth"}


@dataclass(frozen=True)
class Pretrained:
    """Weights from elsewhere.

    Attributes:
        path: The file that they were read from.
        sha256: Its hash.
        weights: The tensors by name.
    """

    path: Path
    sha256: str
    weights: Mapping[str, Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Return what a run says of where it began."""
        return {"path": str(self.path.resolve()), "sha256": self.sha256}


def read(resolved: Resolved) -> Pretrained | None:
    """Read the weights that a configuration names; None where it names none. Nothing in them can run code.

    Raises:
        ConfigError: If there is no such file or run, or it is a file of another kind.
        CheckpointError: If it cannot be read, is damaged, or is no regular file.
        StorageError: If it cannot be looked for.
    """
    path = resolved.pretrained
    if path is None:
        return None
    with storage_errors("look for"):
        exists = path.exists()
    if not exists:
        remedy = "Paths are relative to the configuration's folder, or else to the folder that you are in."
        raise resolved.problem(f"There is no file and no run {path}", _PATH, remedy)
    if path.is_dir():
        return _of_folder(resolved, path)
    if path.suffix.lower() in _PICKLES:
        what = f"{path} is a pickle by its name, and a pickle can run code when it is read"
        remedy = (
            "Where you trust it, make a .safetensors file of it once: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')."
        )
        raise resolved.problem(what, _PATH, remedy)
    return _of_file(resolved, path)


def _of_folder(resolved: Resolved, path: Path) -> Pretrained:
    """Read a run's best weights, or those of one checkpoint."""
    folder = path if (path / "manifest.json").is_file() else RunFolder.open(path).best
    if folder != path:
        folder = checkpoint.standing(folder)
        if not folder.is_dir():
            what = f"The run {path} has no best weights yet; it has not been evaluated once"
            raise resolved.problem(what, _PATH, "Let it finish, or name one of its checkpoints.")
    weights, sha256 = checkpoint.read_hashed_weights(folder)
    return Pretrained(folder / "weights.safetensors", sha256, weights)


def _of_file(resolved: Resolved, path: Path) -> Pretrained:
    try:
        weights, sha256 = checkpoint.read_tensors(path)
    except CheckpointError as error:
        place = resolved.document.location(_PATH)
        raise CheckpointError(f"{error} It is named at transfer.pretrained{f' ({place})' if place else ''}.") from error
    return Pretrained(path, sha256, weights)
