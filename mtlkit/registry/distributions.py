"""Distributions: who provides what, read from the metadata of everything that is installed."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import shlex
import sys
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from mtlkit._version import __version__
from mtlkit.hookspecs import KINDS
from mtlkit.registry.names import FILE_SUFFIX, OWN, normal, objection_to
from mtlkit.registry.records import Record, State, Status

__all__ = [
    "Distribution",
    "Origin",
    "applies",
    "declared",
    "installed",
    "is_file",
    "parsed",
    "pip_install",
    "read",
    "recommended_requirement",
]

_NAME = re.compile(r"^Name:[ \t]*(\S+)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_VALUE = re.compile(rf"({_DOTTED})\s*(?::\s*({_DOTTED})\s*)?(?:\[.*\]\s*)?")  # module:attribute [extras]


@dataclass(frozen=True)
class Origin:
    """Where a distribution was installed from, if not from an index (PEP 610).

    Attributes:
        url: The address.
        editable: Whether it is an editable install of a folder.
        vcs: The version control system, such as ``git``; empty where there is none.
        commit: The commit that was checked out.
        subdirectory: The folder of the project within it; empty for all of it.
        sha256: The hash of a file that is itself the plugin.
    """

    url: str
    editable: bool = False
    vcs: str = ""
    commit: str = ""
    subdirectory: str = ""
    sha256: str = ""

    @property
    def path(self) -> Path | None:
        """The file or folder, if it is one of this machine."""
        parts = urllib.parse.urlsplit(self.url)
        return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None

    @property
    def folder(self) -> Path | None:
        """The folder that an editable install is of."""
        return self.path if self.editable else None

    def __str__(self) -> str:
        if self.folder:
            return f"{self.folder} (editable)"
        url = self.url if not self.vcs else f"{self.vcs}+{self.url}" + (f"@{self.commit}" if self.commit else "")
        return url + (f"#subdirectory={self.subdirectory}" if self.subdirectory else "")

    def to_dict(self) -> dict[str, Any]:
        """Return what a run's environment.json holds; what is empty is left out."""
        return {key: value for key, value in vars(self).items() if value}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Origin:
        """Read back what :meth:`to_dict` gave."""
        return cls(**{key: value for key, value in data.items() if key in cls.__dataclass_fields__})


def pip_install(name: str, version: str, origin: Origin | None = None) -> str:
    """Return the command that brings back a distribution just as it was."""
    if origin is not None and origin.folder is not None:
        return shlex.join(["pip", "install", "-e", str(origin.folder)])
    if origin is not None and origin.url:
        return shlex.join(["pip", "install", f"{name} @ {origin}"])
    return shlex.join(["pip", "install", f"{name}=={version}"])


def _no_origin() -> Origin | None:
    return None


@dataclass(frozen=True, eq=False)
class Distribution:
    """A distribution that has entry points of mtlkit, known from its metadata.

    Attributes:
        name: Its normalised name; for a file that was given as a plugin, the file's name.
        version: Its version.
        location: The folder on ``sys.path`` that it was found in.
        records: Its components.
        refused: Its components that metadata alone shows to be broken, each with what is wrong.
        unreadable: What is wrong with its entry points, if they cannot be read.
        requires: Its requirements, as its metadata spells them.
        duplicates: Others of its name that lie further down ``sys.path``: version and folder of each.
    """

    name: str
    version: str
    location: str = ""
    records: Sequence[Record] = ()
    refused: dict[Record, Status] = field(default_factory=dict)
    unreadable: str = ""
    requires: Sequence[str] = ()
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    _origin: Callable[[], Origin | None] = _no_origin

    def __post_init__(self) -> None:
        named: dict[tuple[str, str], list[Record]] = {}
        for record in self.records:
            named.setdefault((record.kind, record.name), []).append(record)
        for (_, name), twins in named.items():
            if len(twins) > 1:
                what = (
                    f"{self.name} has {len(twins)} components of this kind whose names are the same in NFC and without "
                    f"case, {name!r}, and they lead to {', '.join(twin.value for twin in twins)}"
                )
                remedy = f"Rename all but one in {self.name}." if is_file(self.name) else _tell(self.name)
                for twin in twins:
                    self.refused.setdefault(twin, Status(State.BROKEN, what, remedy))

    @functools.cached_property
    def origin(self) -> Origin | None:
        """Where it was installed from; None for an index."""
        return self._origin()

    @functools.cached_property
    def own_requirements(self) -> list[Requirement]:
        """What it requires of mtlkit here: requirements whose marker does not hold are left out."""
        return [each for each in parsed(self.requires) if canonicalize_name(each.name) == OWN]

    @property
    def status(self) -> Status:
        """Whether it works with the running version, by its own word."""
        refusing = [
            each for each in self.own_requirements if not each.specifier.contains(__version__, prereleases=True)
        ]
        if not refusing:
            return Status()
        asked = " and ".join(f"{OWN}{each.specifier}" for each in refusing)
        return Status(
            State.INCOMPATIBLE,
            f"{self.name} {self.version} requires {asked}, and this is mtlkit {__version__}; it was not imported",
            f"Look for a release that admits it: pip install --upgrade {shlex.quote(self.name)}. Or install the mtlkit "
            f"that it is made for: pip install {shlex.quote(asked.split(' and ')[0])}.",
        )


def parsed(requires: Sequence[str]) -> list[Requirement]:
    """Return the requirements that hold here; those of extras are left out, and what no tool can read."""
    found = []
    for text in requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if applies(requirement):
            found.append(requirement)
    return found


def applies(requirement: Requirement) -> bool:
    """Return whether a requirement's marker holds here; one that compares what cannot be compared does not."""
    try:
        return requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    except ValueError:
        return False


def recommended_requirement() -> str:
    """Return what a plugin that is made for the running version best requires of mtlkit.

    What works without a deprecation warning works for the two minor versions that follow.
    """
    running = Version(__version__)
    return f"{OWN}>={running.major}.{running.minor},<{running.major}.{running.minor + 3}"


def installed() -> list[Distribution]:
    """Read every installed distribution that has entry points of mtlkit, sorted by name; none is imported.

    A distribution that is found twice counts once: what an installer recorded (dist-info) before what a build left in
    a source folder (egg-info), then the first on ``sys.path``, which is the one that imports.
    """
    found: dict[str, list[tuple[bool, importlib.metadata.Distribution]]] = {}
    for each in importlib.metadata.distributions(path=sys.path):
        metadata = _text(each, "METADATA")
        named = _NAME.search(metadata or _text(each, "PKG-INFO") or "")
        if named:
            found.setdefault(canonicalize_name(named[1]), []).append((metadata is None, each))
    kept = []
    for name, copies in sorted(found.items()):
        if name == OWN:
            continue  # what ships inside is in builtins
        copies.sort(key=lambda copy: copy[0])  # stable: the order of sys.path stays within each
        distribution = read(name, copies[0][1])
        if distribution is None:
            continue
        for _, other in copies[1:]:
            here = (_version(other), str(other.locate_file("")))
            if here != (distribution.version, distribution.location) and here not in distribution.duplicates:
                distribution.duplicates.append(here)
        kept.append(distribution)
    return kept


def read(name: str, metadata: importlib.metadata.Distribution) -> Distribution | None:
    """Return one distribution; None for one without entry points of mtlkit."""
    if f"[{OWN}." not in (_text(metadata, "entry_points.txt") or ""):
        return None
    version, unreadable = _version(metadata), ""
    records: dict[Record, None] = {}
    refused: dict[Record, Status] = {}
    try:
        entries = list(metadata.entry_points)
        requires = metadata.requires or []
    except Exception as error:  # noqa: BLE001 - text that no installer wrote raises whatever it raises
        entries, requires, unreadable = [], [], f"{type(error).__name__}: {error}"
    for entry in entries:
        group, _, kind = entry.group.partition(".")
        if group != OWN or kind not in KINDS:
            continue
        value = _VALUE.fullmatch(entry.value)
        leads_to = ":".join(filter(None, value.groups())) if value else entry.value
        record = Record(kind, normal(entry.name), name, version, leads_to)
        records[record] = None
        if wrong := _objection(entry):
            refused[record] = Status(State.BROKEN, wrong, _tell(name))
    return Distribution(
        name,
        version,
        str(metadata.locate_file("")),
        sorted(records),
        refused,
        unreadable,
        requires,
        _origin=functools.partial(_origin_of, metadata),
    )


def _objection(entry: importlib.metadata.EntryPoint) -> str:
    """Return what is wrong with an entry point as it is written."""
    if objection := objection_to(entry.name):
        return f"it is called {entry.name!r}, and {objection}"
    if not _VALUE.fullmatch(entry.value):
        return f"its entry point leads to {entry.value!r}, which is no module:attribute"
    return ""


def _tell(name: str) -> str:
    return f"Tell the authors of {name}."


def _text(metadata: importlib.metadata.Distribution, name: str) -> str | None:
    """Return a file of a distribution's metadata, what is no UTF-8 in it replaced; None if there is none."""
    try:
        return metadata.read_text(name)
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")
    except OSError:
        return None


def _version(metadata: importlib.metadata.Distribution) -> str:
    try:
        return metadata.version or "?"
    except (KeyError, ValueError):
        return "?"


def _origin_of(metadata: importlib.metadata.Distribution) -> Origin | None:
    """Read direct_url.json, which installers write for what is not from an index."""
    try:
        data = json.loads(metadata.read_text("direct_url.json") or "{}")
        url = str(data["url"])
        editable = bool(data.get("dir_info", {}).get("editable", False))
        vcs = data.get("vcs_info", {})
        return Origin(
            url, editable, str(vcs.get("vcs", "")), str(vcs.get("commit_id", "")), str(data.get("subdirectory", ""))
        )
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        return None


def is_file(name: str) -> bool:
    """Return whether a distribution's name is that of a file which was given as a plugin."""
    return name.endswith(FILE_SUFFIX)


def declared(folder: Path) -> dict[tuple[str, str], str] | None:
    """Return the entry points that a project's pyproject.toml declares now: (kind, name) to value.

    None where there is no such file, or it leaves entry points to something else.
    """
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = project.get("entry-points", {})
        if "entry-points" in project.get("dynamic", []):
            return None
        return {
            (group.removeprefix(f"{OWN}."), normal(name)): value
            for group, entries in groups.items()
            if group.startswith(f"{OWN}.")
            for name, value in entries.items()
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return None
