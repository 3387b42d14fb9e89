"""Names: what a new plugin is called, as a distribution, a module, a component and a class."""

from __future__ import annotations

import keyword
import re
import sys
from dataclasses import dataclass

from packaging.utils import canonicalize_name

from mtlkit.errors import ConfigError, Problem
from mtlkit.registry import OWN

__all__ = ["Names"]

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_COMPONENT = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
_SURROUNDINGS = re.compile(r"^mtlkit-|(-(mtl|mtlkit|plugins?|tasks?|encoders?|strategy|strategies|architectures?))+$")


@dataclass(frozen=True)
class Names:
    """What a new plugin is called.

    Attributes:
        given: The distribution's name as its author spells it.
        component: The component's name.
    """

    given: str
    component: str

    @property
    def distribution(self) -> str:
        """The distribution's name in the one spelling that it is known by."""
        return canonicalize_name(self.given)

    @property
    def module(self) -> str:
        """The module that is imported."""
        return self.distribution.replace("-", "_")

    @property
    def qualified(self) -> str:
        """The component's name that is never ambiguous."""
        return f"{self.distribution}:{self.component}"

    @property
    def attribute(self) -> str:
        """The module's attribute that the entry point leads to."""
        return self.component.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The component's class: half-moons is HalfMoons."""
        return _class_name(self.component)

    @classmethod
    def of(cls, name: str, component: str | None = None) -> Names:
        """Check the names, and derive the component's where it is not given: acme-mtl has acme.

        Raises:
            ConfigError: If one cannot be what it is to be.
        """
        _check_distribution(name)
        if component is None:
            whole = canonicalize_name(name)
            short = _SURROUNDINGS.sub("", whole)
            component = whole if _objection(short) else short
        elif objection := _objection(component.lower()):
            remedy = "It takes letters of a to z, digits, '-' and '_', and begins with a letter: half-moons, say."
            raise ConfigError(Problem(f"No component can be called '{component}' here: {objection}", remedy=remedy))
        return cls(name, component.lower())


def _check_distribution(name: str) -> None:
    """Refuse what cannot be a distribution and a module.

    Raises:
        ConfigError: If it cannot.
    """
    example = "acme-mtl" if not name.lower().startswith("mtlkit") else "mtlkit-acme"
    remedy = f"Take another, such as {example}."
    if not _DISTRIBUTION.fullmatch(name):
        remedy = f"It takes letters of a to z, digits, '-', '_' and '.', none of these three at an end: {example}, say."
        raise ConfigError(Problem(f"No distribution can be called {name!r}", remedy=remedy))
    distribution = canonicalize_name(name)
    module = distribution.replace("-", "_")
    if distribution == OWN:
        raise ConfigError(Problem(f"'{name}' is what a plugin plugs into", remedy=remedy))
    what = f"'{name}' cannot be a plugin's name: its module would be '{module}'"
    if not module.isidentifier():
        raise ConfigError(Problem(f"{what}, and a module's name begins with a letter", remedy=remedy))
    if keyword.iskeyword(module):
        raise ConfigError(Problem(f"{what}, and that is a keyword of Python", remedy=remedy))
    if module in sys.stdlib_module_names:
        raise ConfigError(Problem(f"{what}, which Python has already", remedy=remedy))


def _objection(component: str) -> str:
    """Return why a component cannot be called that; nothing if it can."""
    if not _COMPONENT.fullmatch(component):
        return "it is no name"
    if component[0].isdigit():
        return "its class would begin with a digit"
    for name in (component.replace("-", "_"), _class_name(component)):
        if keyword.iskeyword(name):
            return f"{name} is a keyword of Python"
    return ""


def _class_name(component: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", component))
