"""Settings: what is global in Python and in torch, and what loading a component may have changed of it."""

from __future__ import annotations

import gc
import hashlib
import locale
import logging
import multiprocessing
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

__all__ = ["changes", "snapshot"]

_UNSET = "unset"
_VARIABLE = "the environment variable "


def snapshot() -> dict[str, object]:
    """Return the global settings as they are, each under what it is called; torch's and NumPy's if they are loaded."""
    found: dict[str, object] = {
        "Python's random state": _digest(random.getstate()),
        "warnings.filters": list(warnings.filters),
        "sys.excepthook": sys.excepthook,
        "sys.unraisablehook": sys.unraisablehook,
        "threading.excepthook": threading.excepthook,
        "sys.stdout": sys.stdout,
        "sys.stderr": sys.stderr,
        "sys.path": list(sys.path),
        "the recursion limit": sys.getrecursionlimit(),
        "the garbage collector's being enabled": gc.isenabled(),
        "the locale": locale.setlocale(locale.LC_ALL),
        "the working directory": str(Path.cwd()),
        "the level of the root logger": logging.root.level,
        "the handlers of the root logger": list(logging.root.handlers),
        "logging.disable()": logging.root.manager.disable,
        "the start method of multiprocessing": multiprocessing.get_start_method(allow_none=True),
    }
    found |= {f"the handler of {each.name}": signal.getsignal(each) for each in signal.Signals}
    found |= {f"{_VARIABLE}{name}": value for name, value in os.environ.items()}
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        found["NumPy's random state"] = _digest(numpy.random.get_state())
        found["NumPy's handling of floating-point errors"] = numpy.geterr()
    return found | _of_torch()


def _of_torch() -> dict[str, object]:
    if "torch" not in sys.modules:
        return {}
    import torch  # noqa: PLC0415 - only where it is loaded already

    return {
        "torch's random state": _digest(torch.get_rng_state().numpy().tobytes()),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "whether torch records gradients": torch.is_grad_enabled(),
        "whether torch looks for anomalies": torch.is_anomaly_enabled(),
        "whether torch uses deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "whether torch only warns of algorithms that are not deterministic": (
            torch.is_deterministic_algorithms_warn_only_enabled()
        ),
        "torch's number of threads": torch.get_num_threads(),
        "torch's precision of float32 matrix products": torch.get_float32_matmul_precision(),
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "torch.backends.cudnn.deterministic": torch.backends.cudnn.deterministic,
    }


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return what changed from one snapshot to another, each with the values where they say something.

    What torch and NumPy have is compared only if they were loaded already.
    """
    found = []
    for name in dict.fromkeys([*before, *(each for each in after if each.startswith(_VARIABLE))]):
        old, new = before.get(name, _UNSET), after.get(name, _UNSET)
        if old != new:
            found.append(name if "random state" in name else f"{name} ({_shown(old)}, now {_shown(new)})")
    return found


def _digest(state: object) -> str:
    return hashlib.sha256(pickle.dumps(state)).hexdigest()


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004 - a part of a line
