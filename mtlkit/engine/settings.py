"""Global settings and random numbers, set for the length of a run and put back after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtlkit.data.generators import kept_generators
from mtlkit.experiment import Experiment

__all__ = ["run_settings"]


@contextmanager
def run_settings(experiment: Experiment) -> Iterator[None]:
    """Apply a run's threads and determinism, and keep its random numbers apart from the caller's."""
    plan, device = experiment.plan, experiment.device
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if plan.deterministic and device.type == "cuda":
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # read when CUDA starts; see torch's notes on randomness
    with kept_generators([device] if device.type == "cuda" else []):
        try:
            torch.set_num_threads(plan.threads or threads)
            if plan.deterministic:
                torch.use_deterministic_algorithms(mode=True)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
