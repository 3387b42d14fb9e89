"""The global generators of random numbers, for rows that are drawn from them when they are read."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["kept_generators", "seed_generators"]


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the global one, which a data set may well draw from
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Put the generators back as they were."""
    pythons, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(pythons)
            np.random.set_state(numpys)  # noqa: NPY002
