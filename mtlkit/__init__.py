"""mtlkit: multi-task learning on PyTorch, where tasks are plugins.

Importing this package imports no torch: every name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mtlkit._version import __version__

if TYPE_CHECKING:
    from mtlkit import architectures, encoders, errors, heads, stems, strategies, tasks, testing
    from mtlkit.app import RunResult, build, check, evaluate, resume, train
    from mtlkit.architectures.base import Architecture
    from mtlkit.baselines import baseline
    from mtlkit.config import RunConfig
    from mtlkit.encoders.base import Encoder
    from mtlkit.experiment import Experiment
    from mtlkit.gradients import Measurement, Outlook, backward, look_ahead
    from mtlkit.hookspecs import hookimpl, plugin
    from mtlkit.model import MultiTaskModel
    from mtlkit.registry import Handle, Registry
    from mtlkit.specs import FeatureSpec, InputSpec
    from mtlkit.stepping import step
    from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
    from mtlkit.task import Source, Split, Task

__all__ = [
    "Architecture",
    "Encoder",
    "Experiment",
    "FeatureSpec",
    "Handle",
    "InputSpec",
    "Measurement",
    "MultiTaskModel",
    "Needs",
    "Outlook",
    "Over",
    "Registry",
    "RunConfig",
    "RunResult",
    "Source",
    "Split",
    "Strategy",
    "Task",
    "Weighting",
    "__version__",
    "architectures",
    "backward",
    "baseline",
    "build",
    "check",
    "encoders",
    "errors",
    "evaluate",
    "heads",
    "hookimpl",
    "look_ahead",
    "plugin",
    "resume",
    "stems",
    "step",
    "strategies",
    "tasks",
    "testing",
    "train",
]

_MODULES = frozenset({"architectures", "encoders", "errors", "heads", "stems", "strategies", "tasks", "testing"})
_HOME = {
    "Architecture": "mtlkit.architectures.base",
    "Encoder": "mtlkit.encoders.base",
    "Experiment": "mtlkit.experiment",
    "FeatureSpec": "mtlkit.specs",
    "Handle": "mtlkit.registry",
    "InputSpec": "mtlkit.specs",
    "Measurement": "mtlkit.gradients",
    "MultiTaskModel": "mtlkit.model",
    "Needs": "mtlkit.strategies.base",
    "Outlook": "mtlkit.gradients",
    "Over": "mtlkit.strategies.base",
    "Registry": "mtlkit.registry",
    "RunConfig": "mtlkit.config",
    "RunResult": "mtlkit.app",
    "Source": "mtlkit.task",
    "Split": "mtlkit.task",
    "Strategy": "mtlkit.strategies.base",
    "Task": "mtlkit.task",
    "Weighting": "mtlkit.strategies.base",
    "backward": "mtlkit.gradients",
    "baseline": "mtlkit.baselines",
    "build": "mtlkit.app",
    "check": "mtlkit.app",
    "evaluate": "mtlkit.app",
    "hookimpl": "mtlkit.hookspecs",
    "look_ahead": "mtlkit.gradients",
    "plugin": "mtlkit.hookspecs",
    "resume": "mtlkit.app",
    "step": "mtlkit.stepping",
    "train": "mtlkit.app",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _MODULES:
        return importlib.import_module(f"mtlkit.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'mtlkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
