"""What the metadata of a plugin alone leads to finding."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mtlkit._version import __version__
from mtlkit.errors import closest
from mtlkit.findings import Finding, Level
from mtlkit.hookspecs import KINDS
from mtlkit.registry import OWN, Distribution, Registry
from mtlkit.registry.distributions import declared, is_file, parsed, pip_install, recommended_requirement
from mtlkit.registry.rules import VARIABLE, unmet

__all__ = ["about_distribution", "about_environment"]

_LOWER = {">", ">=", "~=", "==", "==="}
_UPPER = {"<", "<=", "~=", "==", "==="}


def about_environment(registry: Registry) -> Iterator[Finding]:
    """Yield what ``MTLKIT_PLUGINS`` names in vain."""
    for rule in registry.rules:
        if not rule.from_environment:
            continue
        for name in sorted(rule.allow or ()):
            provider = registry.distributions.get(name)
            if name == OWN or is_file(name) or (provider is not None and provider.records):
                continue
            known = closest(name, list(registry.distributions), kind="Installed")
            if _is_installed(name):
                what = f"{VARIABLE} names {name}, which is installed and has no components of mtlkit"
                yield Finding(Level.WARNING, what, f"Take it out there. {known}")
            else:
                what = f"{VARIABLE} names {name}, which is not installed"
                remedy = f"Install it: pip install {shlex.quote(name)}. Or take it out there. {known}"
                yield Finding(Level.WARNING, what, remedy)


def about_distribution(distribution: Distribution) -> Iterator[Finding]:
    """Yield what is wrong with a distribution by its metadata, but for what keeps it from being used."""
    if is_file(distribution.name):
        return  # it has no metadata
    if distribution.unreadable:
        again = pip_install(distribution.name, distribution.version, distribution.origin)
        what = f"its entry points cannot be read ({distribution.unreadable})"
        yield Finding(Level.ERROR, what, f"Install it again: {again}. If that does not help, tell its authors.")
    else:
        yield from _about_groups(distribution)
        yield from _about_editable(distribution)
    yield from _about_bounds(distribution)
    yield from _about_requirements(distribution)
    if distribution.duplicates:
        others = " and ".join(f"{version} in {folder}" for version, folder in distribution.duplicates)
        what = f"it is installed more than once: {distribution.version} in {distribution.location}, and {others}"
        remedy = (
            f"Only {distribution.version} is used. Remove what is not meant: pip uninstall {distribution.name}, until "
            "it finds none; then install the one that is."
        )
        yield Finding(Level.WARNING, what, remedy)


# --- parts ---


def _about_groups(distribution: Distribution) -> Iterator[Finding]:
    """Yield the groups of entry points that look like mtlkit's, and are none."""
    try:
        entries = importlib.metadata.distribution(distribution.name).entry_points
    except Exception:  # noqa: BLE001 - another copy of it may hold text that no installer wrote
        return
    groups = {entry.group for entry in entries if entry.group.startswith(f"{OWN}.")}
    known = [f"{OWN}.{kind}" for kind in KINDS]
    for group in sorted(groups - set(known)):
        what = f"it has entry points in the group {group}, and mtlkit has no such group"
        yield Finding(Level.WARNING, what, closest(group, known, kind="Groups"))
    if not groups:
        what = "it has no entry point in any group of mtlkit"
        yield Finding(Level.WARNING, what, f"Its authors would declare one. Groups: {', '.join(known)}.")


def _about_editable(distribution: Distribution) -> Iterator[Finding]:
    """Yield what has changed in the folder that a distribution is an editable install of."""
    origin = distribution.origin
    folder = origin.folder if origin else None
    if folder is None:
        return
    if not folder.is_dir():
        what = f"it is an editable install of {folder}, and that folder is gone"
        remedy = (
            "Put it back; or install it from where it is now: pip install -e FOLDER; or remove it: pip uninstall "
            f"{distribution.name}"
        )
        yield Finding(Level.WARNING, what, remedy)
        return
    now = declared(folder)
    if now is None:
        return
    now = {entry: _without_spaces(str(value)) for entry, value in now.items() if entry[0] in KINDS}
    then = {(each.kind, each.name): _without_spaces(each.value) for each in distribution.records}
    changes = [f"{kind} {name} is new" for kind, name in sorted(now.keys() - then.keys())]
    changes += [f"{kind} {name} is gone" for kind, name in sorted(then.keys() - now.keys())]
    changes += [
        f"{kind} {name} leads to {now[kind, name]}, and to {then[kind, name]} as it is installed"
        for kind, name in sorted(now.keys() & then.keys())
        if now[kind, name] != then[kind, name]
    ]
    if changes:
        what = f"the entry points in {folder / 'pyproject.toml'} are not those that are installed: {'; '.join(changes)}"
        again = pip_install(distribution.name, distribution.version, origin)
        yield Finding(Level.WARNING, what, f"Install it again: {again}")


def _about_bounds(distribution: Distribution) -> Iterator[Finding]:
    """Yield whether a distribution leaves open which versions of mtlkit it works with."""
    required = distribution.own_requirements
    operators = {specifier.operator for each in required for specifier in each.specifier}
    missing = [side for side, known in (("lower", _LOWER), ("upper", _UPPER)) if not operators & known]
    if not missing or any(each.url for each in required):
        return
    if not required:
        what = "it does not require mtlkit, so that no installer knows which versions it works with"
    else:
        spelled = ", ".join(f"{OWN}{each.specifier}" for each in required)
        what = f"it requires {spelled}, with no {' and no '.join(missing)} bound"
    series = ".".join(__version__.split(".")[:2])
    yield Finding(
        Level.WARNING,
        what,
        f'Its authors would write "{recommended_requirement()}" among the dependencies in pyproject.toml: what works '
        f"with mtlkit {series} without a ContractWarning works with the two minor versions after it.",
    )


def _about_requirements(distribution: Distribution) -> Iterator[Finding]:
    """Yield each requirement, other than on mtlkit, that what is installed does not meet."""
    for text in distribution.requires:
        try:
            Requirement(text)
        except InvalidRequirement:
            what = f"its requirement {text!r} cannot be read, and no installer can meet it"
            yield Finding(Level.WARNING, what, f"Tell the authors of {distribution.name}.")
    for requirement in parsed(distribution.requires):
        if canonicalize_name(requirement.name) == OWN:
            continue
        try:
            problem = unmet(requirement)
        except (TypeError, ValueError):  # what is installed has no version, or one that no tool can read
            what = f"it requires {requirement}, and the version that is installed cannot be read"
            yield Finding(Level.WARNING, what, f"Reinstall it: pip install --force-reinstall {requirement.name}")
            continue
        if problem:
            what, _, remedy = problem.partition(" is required, and ")[2].partition(". ")
            yield Finding(Level.WARNING, f"it requires {requirement}, and {what}", remedy)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _without_spaces(value: str) -> str:
    return "".join(value.split())
