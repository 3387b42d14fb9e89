"""Provenance: what a run was made with, beside its configuration, and how that differs from what is installed now."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mtlkit._version import __version__
from mtlkit.engine.records import MAX_BYTES
from mtlkit.engine.regular import read_regular
from mtlkit.engine.run import RunFolder
from mtlkit.errors import CheckpointError, PluginError
from mtlkit.experiment import Experiment
from mtlkit.locking import single_line
from mtlkit.plainjson import loads
from mtlkit.pretrained import Pretrained
from mtlkit.registry import OWN, Origin, Record, Registry, State
from mtlkit.registry.distributions import pip_install
from mtlkit.registry.names import distribution_name
from mtlkit.resolve import Resolved

__all__ = ["differences", "environment", "machine_differences", "plugins_used", "require_plugins"]


def plugins_used(records: Sequence[Record], registry: Registry) -> list[dict[str, Any]]:
    """Return what a run and each of its checkpoints say of the plugins that took part.

    Each has ``kind``, ``name``, ``distribution``, ``version`` and ``entry_point``; and ``origin``, where it was not
    installed from an index: the address, whether it is editable, and the commit (PEP 610).
    """
    used = []
    for record in records:
        provider = registry.distributions.get(record.distribution)
        origin = provider.origin if provider else None
        used.append(
            {
                "kind": record.kind,
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "entry_point": record.value,
                **({"origin": origin.to_dict()} if origin else {}),
            }
        )
    return used


def environment(resolved: Resolved, experiment: Experiment, start: Pretrained | None = None) -> dict[str, Any]:
    """Return what a run's numbers depend on beside its configuration.

    Args:
        resolved: The configuration.
        experiment: What was built of it.
        start: The weights that its encoder begins with.
    """
    return {
        **_versions(),
        "platform": platform.platform(),
        **_machine(experiment),
        "interop_threads": torch.get_num_interop_threads(),
        **({"pretrained": start.to_dict()} if start else {}),
        "steps_per_epoch": experiment.plan.steps_per_epoch,
        "workers": experiment.workers,
        "start_method": resolved.config.loading.start if experiment.workers else None,
        "plugins": plugins_used(resolved.records, resolved.registry),
    }


def require_plugins(run: RunFolder, registry: Registry, files: Iterable[str] = ()) -> None:
    """Check that what a run was made with is installed and may be used.

    A file that was a plugin has to be given again: a run folder may be a stranger's, and what it names by a path is
    never imported for its word alone.

    Args:
        run: The run.
        registry: What is installed.
        files: The names of further files that are given as plugins.

    Raises:
        CheckpointError: If the run does not say what it was made with.
        PluginError: Naming each plugin that is missing, with the command that brings it back, and each that refuses to
            work with this version of mtlkit.
    """
    problems = []
    for plugin in _saved(run)["plugins"]:
        try:
            # Checked, for a command is made of it, and the folder may be a stranger's.
            name, made_with = distribution_name(plugin["distribution"]), str(plugin["version"])
            origin = _origin(plugin)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{run.path / 'environment.json'} cannot be read: {error!r}.") from error
        if origin and origin.sha256:
            if name not in registry.files and name not in files:
                path = str(origin.path or name)
                problems.append(
                    f"The run {run.path} used the file {path} as a plugin. Give it: --plugin {shlex.quote(path)}"
                )
            continue
        back = f"Bring it back: {pip_install(name, made_with, origin)}"
        records = [record for record in registry.records() if record.distribution == name]
        provider = registry.distributions.get(name)
        if not records and name != OWN:
            problems.append(f"The run {run.path} used {name} {made_with}, which is not installed. {back}")
        elif provider and provider.status.state is State.INCOMPATIBLE:
            problems.append(f"{provider.status.reason}. {provider.status.remedy}")
        elif not any((record.kind, record.name) == (plugin.get("kind"), plugin.get("name")) for record in records):
            now = f"{name} {provider.version}" if provider else name
            problems.append(
                f"The run {run.path} used {plugin.get('name')!r} of {name} {made_with}, and {now} has no such "
                f"component among its {plugin.get('kind')}. {back}"
            )
    if problems:
        raise PluginError("\n".join(dict.fromkeys(problems)))


def differences(run: RunFolder, registry: Registry) -> list[str]:
    """Return how what is installed differs from what a run was made with, a sentence without its full stop for each.

    Raises:
        CheckpointError: If the run does not say what it was made with.
    """
    before = _saved(run)
    try:
        # A run of an older mtlkit does not say everything.
        pairs = [(name, before.get(name, now), now) for name, now in _versions().items()]
        for plugin in before["plugins"]:
            name = plugin["distribution"]
            versions = [each.version for each in registry.records(plugin["kind"]) if each.distribution == name]
            provider = registry.distributions.get(name)
            now = _which(versions[0], provider.origin if provider else None) if versions else "not installed"
            pairs.append((name, _which(plugin["version"], _origin(plugin)), now))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{run.path / 'environment.json'} cannot be read: {error!r}.") from error
    return list(dict.fromkeys(f"{name} was {old} and is {new}" for name, old, new in pairs if old != new))


def machine_differences(run: RunFolder, experiment: Experiment) -> list[str]:
    """Return how the machine and its settings differ from those that a run was made on, where that can change bits.

    How many processes read rows, and how they are started, changes none; nor does how many operators run at a time.

    Raises:
        CheckpointError: If the run does not say what it was made with.
    """
    before = _saved(run)
    now = _machine(experiment)
    pairs = [(name, _told(name, before.get(name, value)), _told(name, value)) for name, value in now.items()]
    return [f"{name} was {old} and is {new}" for name, old, new in pairs if old != new]


def _machine(experiment: Experiment) -> dict[str, Any]:
    """Return what of the machine and of PyTorch's settings the bits of a run may depend on."""
    device = experiment.device
    is_cuda = device.type == "cuda"
    return {
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if is_cuda else None,
        "device_capability": "{}.{}".format(*torch.cuda.get_device_capability(device)) if is_cuda else None,
        "cuda": torch.version.cuda if is_cuda else None,
        "cudnn": torch.backends.cudnn.version() if is_cuda else None,
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": experiment.plan.threads or torch.get_num_threads(),
        "deterministic": experiment.plan.deterministic or torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def _processor() -> str:
    """Return what the processor is called, or at least of which kind it is."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _told(name: str, value: object) -> str:
    text = "nothing" if value is None else single_line(str(value))
    return text.partition(":")[0] if name == "device" else text  # of several GPUs of a kind, any gives the same bits


def _saved(run: RunFolder) -> Mapping[str, Any]:
    path = run.path / "environment.json"
    try:
        saved = loads(read_regular(path, MAX_BYTES))
        list(saved["plugins"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}.") from error
    return dict(saved)


def _origin(plugin: Mapping[str, Any]) -> Origin | None:
    """Return where a plugin was installed from when it took part in a run."""
    saved = plugin.get("origin")
    if not saved:
        return None
    return Origin.from_dict({key: value if isinstance(value, bool) else str(value) for key, value in saved.items()})


def _which(version: str, origin: Origin | None) -> str:
    """Return a version, with the commit where it has one: two commits may well be of one version."""
    return f"{version} at {origin.commit}" if origin and origin.commit else version


def _versions() -> dict[str, str]:
    return {
        "mtlkit": __version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "torch": torch.__version__,
        "torchmetrics": version("torchmetrics"),
    }
