"""Files as plugins: work that is not packaged yet, in one Python file.

Each ``wine = mtlkit.plugin(Wine)`` of the file is a component called ``wine``. A file has no metadata, so it is
imported to find them; that happens because somebody named it, by ``--plugin`` or in a configuration's
``plugins.files``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from mtlkit.boundedfile import read_bytes
from mtlkit.errors import PluginError
from mtlkit.hookspecs import ANSWERS
from mtlkit.registry.describe import at_fault
from mtlkit.registry.distributions import Distribution, Origin
from mtlkit.registry.names import FILE_SUFFIX, normal
from mtlkit.registry.records import Record

__all__ = ["read_file"]

_MOST = 10_000_000  # bytes of a module
_DIGEST = "__mtlkit_sha256__"


def read_file(path: Path) -> Distribution:
    """Import a file, and return its components as a distribution of the file's name.

    It is imported by its own name, its folder last on ``sys.path``: so it may import what lies beside it, hides nothing
    that is installed, and what it defines can be pickled and found again by another process.

    Raises:
        PluginError: If it is not there, cannot be imported, or holds no plugin.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - without '..', and whatever a link is called
    if path.suffix != FILE_SUFFIX or not path.stem.isidentifier():
        raise PluginError(
            f"{path} cannot be a plugin: a Python file is needed, whose name is one that Python can import, such as "
            f"my_tasks{FILE_SUFFIX}."
        )
    try:
        raw = read_bytes(path, _MOST)
    except (OSError, ValueError) as error:  # ValueError: the path holds a null character
        raise PluginError(f"The plugin {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(raw) > _MOST:
        raise PluginError(f"The plugin {path} has more than {_MOST} bytes, and so is no module that somebody wrote.")
    digest = hashlib.sha256(raw).hexdigest()
    records = []
    for name, value in _import(path, digest).items():
        if type(value).__module__ != "mtlkit.hookspecs":
            continue  # first, for asking anything else of it may raise anything
        kind = getattr(value, "kind", None)
        if kind in ANSWERS:
            records.append(Record(kind, normal(name), path.name, f"sha256:{digest[:12]}", f"{path.stem}:{name}"))
    if not records:
        raise PluginError(
            f"{path} holds no plugin. Each component is a line such as: wine = mtlkit.plugin(Wine), at the top level."
        )
    return Distribution(
        path.name,
        records[0].version,
        str(path.parent),
        sorted(records),
        _origin=lambda: Origin(path.as_uri(), sha256=digest),
    )


def _import(path: Path, digest: str) -> dict[str, Any]:
    """Return what a file defines; one that has changed since this process imported it is imported anew."""
    folder, name = str(path.parent), path.stem
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin and Path(spec.origin).exists() and path.samefile(spec.origin):
            if getattr(sys.modules.get(name), _DIGEST, digest) != digest:
                del sys.modules[name]
            defined = dict(vars(importlib.import_module(name)))
            setattr(sys.modules[name], _DIGEST, digest)
            return defined
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a file that calls sys.exit() must not end the program
        reason = at_fault(error)
        raise PluginError(f"The plugin {path} cannot be imported: {reason}.", reason=reason) from error
    what = spec.origin if spec and spec.origin and spec.has_location else "a part of Python"
    raise PluginError(
        f"{path} cannot be imported as '{name}': that is {what} already. Give the file a name of its own."
    )
