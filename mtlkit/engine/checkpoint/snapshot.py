"""Snapshot: what the files of a checkpoint will hold, as it was at one step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mtlkit.engine.checkpoint.layout import pieces
from mtlkit.engine.checkpoint.packing import pack
from mtlkit.engine.checkpoint.reading import MAX_STATE
from mtlkit.errors import CheckpointError

__all__ = ["Snapshot"]

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the files of a checkpoint will hold, but the manifest.

    Attributes:
        step: The step it was taken at.
        files: The pieces of each file by name, to be gone through as often as the file is written.
        plugins: What the manifest says of the plugins that took part.
    """

    step: int
    files: Mapping[str, Iterable[bytes | memoryview]]
    plugins: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def take(
        cls,
        step: int,
        model: nn.Module,
        state: Mapping[str, Any] | None = None,
        *,
        plugins: Sequence[Mapping[str, Any]] = (),
        copies: bool = False,
    ) -> Snapshot:
        """Take a snapshot.

        Args:
            step: The step.
            model: What the weights are of.
            state: What else is to be kept: nested dicts, lists and tuples of tensors, numbers, strings and None.
            plugins: What the manifest is to say of the plugins that took part.
            copies: Copy every tensor to memory of its own on the CPU, so that training can go on. Without, the snapshot
                is good until a tensor is changed in place.

        Raises:
            TypeError: If something is of a type that a checkpoint cannot hold.
            CheckpointError: If it is more than can be read back.
        """
        # Once it is copied, nothing is left for PyTorch to do when it is written, in whichever thread that is.
        content = (lambda tensors: list(pieces(_copied(tensors)))) if copies else _Lazy
        files: dict[str, Iterable[bytes | memoryview]] = {WEIGHTS: content(model.state_dict())}
        if state is not None:
            tensors: dict[str, Tensor] = {}
            plain = json.dumps(pack(state, tensors), allow_nan=False).encode()
            if len(plain) > MAX_STATE:
                raise CheckpointError(
                    f"The state of the run takes {len(plain)} bytes of JSON, and a checkpoint holds {MAX_STATE}. "
                    "Keep what is large in tensors: they are not counted."
                )
            files["state.safetensors"] = content(tensors)
            files["state.json"] = [plain]
        return cls(step=step, files=files, plugins=tuple(plugins))

    @property
    def weights_alone(self) -> Snapshot:
        """The same with the weights and nothing else."""
        return replace(self, files={WEIGHTS: self.files[WEIGHTS]})

    @property
    def nbytes(self) -> int:
        """How many bytes the files take together."""
        return sum(memoryview(piece).nbytes for content in self.files.values() for piece in content)


@dataclass(frozen=True)
class _Lazy:
    """The pieces of tensors that are where they are until they are written."""

    tensors: Mapping[str, Tensor]

    def __iter__(self) -> Iterator[bytes | memoryview]:
        return pieces(self.tensors)


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
