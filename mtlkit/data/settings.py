"""Loading: how the rows of a run are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Loading", "Start"]

Start = Literal["spawn", "fork", "forkserver"]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the rows of a run are read.

    Attributes:
        memory: How many bytes of each source may be held in memory on the run's device; None for as many as there are.
        workers: How many processes read the rows of each source that is not held; 0 for none but the run's own.
        start: How they are started.
        prefetch: How many batches each of them reads ahead.
        timeout: How many seconds a batch may take one of them.
    """

    memory: int | None
    workers: int
    start: Start
    prefetch: int
    timeout: float
