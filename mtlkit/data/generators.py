"""The global generators of random numbers, which rows that are read and tasks of a run may well draw from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["generator_states", "kept_generators", "restore_generators", "seed_generators"]


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, the last on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global one, which a data set may well draw from
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def kept_generators(devices: Sequence[torch.device | int] = ()) -> Iterator[None]:
    """Put the generators back as they were, those of some CUDA devices included."""
    pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)  # noqa: NPY002


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return where the generators are, that of a CUDA device included, as what a checkpoint can hold."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    states: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gaussian": float(cached),
        },
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Any], device: torch.device) -> None:
    """Go to where :func:`generator_states` was asked.

    Raises:
        AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError: If these are no states of such
            generators.
    """
    pythons, numpys = states["python"], states["numpy"]  # None in a checkpoint from before these were saved
    torch.set_rng_state(states["cpu"])
    if pythons is not None:
        random.setstate((pythons["version"], tuple(pythons["words"].tolist()), pythons["gauss"]))
    if numpys is not None:
        keys = numpys["keys"].numpy().astype(np.uint32)
        if not 0 <= numpys["position"] <= len(keys):  # NumPy would read on behind them
            raise ValueError(f"the position of NumPy's generator is {numpys['position']}, of {len(keys)} keys")
        np.random.set_state(  # noqa: NPY002
            ("MT19937", keys, numpys["position"], numpys["has_gauss"], numpys["cached_gaussian"])
        )
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
