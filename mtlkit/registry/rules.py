"""Rules: which plugins may be used at all, decided before any of them is imported.

The environment has the first word (``MTLKIT_PLUGINS``, ``--no-plugins``); a configuration may narrow what that leaves,
and never widen it. None of this is a sandbox: a plugin is code, and runs with the rights of whoever runs mtlkit.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

from mtlkit._version import __version__
from mtlkit.errors import ConfigError, Problem
from mtlkit.registry.distributions import applies
from mtlkit.registry.names import OWN, distribution_name
from mtlkit.registry.records import State, Status

__all__ = ["VARIABLE", "Rule", "environment_rules", "unmet"]

VARIABLE = "MTLKIT_PLUGINS"


@dataclass(frozen=True)
class Rule:
    """What one authority says about which distributions may be used.

    Attributes:
        origin: Who says so, such as ``MTLKIT_PLUGINS``.
        allow: The only distributions that may be used; None for all.
        deny: Distributions that may not.
        from_environment: Whether it is the environment's, which files that the command line names are not subject to.
    """

    origin: str
    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()
    from_environment: bool = False

    @classmethod
    def of(cls, origin: str, allow: Iterable[str] | None = None, deny: Iterable[str] = ()) -> Rule:
        """Make a rule of names as people spell them.

        Raises:
            ConfigError: If one is no name of a distribution, or is mtlkit itself.
        """
        kept = None if allow is None else frozenset(_name(each, origin) for each in allow)
        denied = frozenset(_name(each, origin) for each in deny)
        if OWN in denied:
            raise ConfigError(Problem(f"{origin} denies mtlkit itself", remedy="What ships inside is always there."))
        return cls(origin, kept, denied)

    def status(self, distribution: str) -> Status:
        """Return whether this rule leaves a distribution in."""
        if distribution in self.deny:
            return Status(State.DISABLED, f"{self.origin} denies {distribution}", "Take it out there.")
        if self.allow is not None and distribution not in self.allow:
            named = f"{', '.join(sorted(self.allow))}, and not {distribution}" if self.allow else "no plugin"
            return Status(
                State.DISABLED,
                f"{self.origin} allows {named}",
                f"Add {distribution} there." if self.origin != "--no-plugins" else "Leave out --no-plugins.",
            )
        return Status()


def _name(text: str, origin: str) -> str:
    try:
        return distribution_name(text)
    except ValueError:
        remedy = "It takes names of distributions, as pip does."
        raise ConfigError(Problem(f"{origin} names {text!r}, which is no distribution's name", remedy=remedy)) from None


def environment_rules(*, plugins: bool = True) -> list[Rule]:
    """Return the environment's rules.

    Args:
        plugins: False if no plugin may be used, as ``--no-plugins`` says.

    Raises:
        ConfigError: If ``MTLKIT_PLUGINS`` holds what is no distribution's name.
    """
    rules = [] if plugins else [Rule("--no-plugins", frozenset(), from_environment=True)]
    given = os.environ.get(VARIABLE)
    if given is not None:
        names = [part.strip() for part in given.split(",") if part.strip()]
        rule = Rule.of(f"the environment variable {VARIABLE}", names)
        rules.append(Rule(rule.origin, rule.allow, from_environment=True))
    return rules


def unmet(requirement: Requirement, version: str | None = None) -> str:
    """Return what is wrong with what is installed, by one requirement; nothing if it is met or does not apply here.

    Args:
        requirement: The requirement.
        version: The version that is installed; looked up by default.
    """
    if not applies(requirement):
        return ""
    name = canonicalize_name(requirement.name)
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    source = f" @ {requirement.url}" if requirement.url else str(requirement.specifier)
    command = shlex.join(["pip", "install", f"{requirement.name}{extras}{source}"])
    try:
        version = __version__ if name == OWN else version or importlib.metadata.version(name) or "?"
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement} is required, and {name} is not installed. Install it: {command}"
    try:
        if not requirement.specifier or requirement.specifier.contains(version, prereleases=True):
            return ""
    except InvalidVersion:
        pass  # what has no version that can be read meets none
    return f"{requirement} is required, and {name} {version} is installed. Install what is: {command}"
