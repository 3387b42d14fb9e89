"""Registry: the components that a run may name."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mtlkit._version import __version__
from mtlkit.builtins import BUILTINS
from mtlkit.errors import ConfigError, PluginError, Problem, closest
from mtlkit.hookspecs import SINGULAR
from mtlkit.registry.distributions import Distribution, applies, installed, is_file
from mtlkit.registry.files import read_file
from mtlkit.registry.loading import Refused, load
from mtlkit.registry.names import OWN, normal, split
from mtlkit.registry.records import Record, State, Status
from mtlkit.registry.rules import Rule, environment_rules, unmet

__all__ = ["Registry"]


class Registry:
    """The components that a run may name. An object, never a global: two may stand side by side.

    Args:
        records: Components that are there, whatever provides them.
        distributions: What is installed; :meth:`discover` finds it.
        rules: Which of it may be used.
        trusted: The files among the distributions that the environment's rules do not bind.
    """

    def __init__(
        self,
        records: Iterable[Record] = (),
        distributions: Iterable[Distribution] = (),
        *,
        rules: Sequence[Rule] = (),
        trusted: frozenset[str] = frozenset(),
    ) -> None:
        self.distributions = {each.name: each for each in distributions}
        self._records = sorted({*records, *(r for each in self.distributions.values() for r in each.records)})
        self._given = frozenset(self._records)
        self.rules = tuple(rules)
        self._trusted = trusted
        self._broken: dict[Record, Status] = {}
        refused = {r: s for each in self.distributions.values() for r, s in each.refused.items()}
        # What does not change once the registry is made is worked out once: listing asks for every component.
        self._fixed = {record: self._fixed_status(record, refused) for record in self._records}
        self._usable: dict[tuple[str, str], list[Record]] = {}
        for record in self._records:
            if self._fixed[record].state is State.OK:
                self._usable.setdefault((record.kind, record.name), []).append(record)

    @classmethod
    def discover(cls, *, plugins: bool = True, files: Sequence[str | Path] = ()) -> Registry:
        """Read the entry points of every installed distribution, and import none of them.

        The environment variable ``MTLKIT_PLUGINS`` names the distributions that may be used, separated by commas; empty
        for none, unset for all.

        Args:
            plugins: False to leave out everything that is installed.
            files: Python files that are plugins too; these are imported.

        Raises:
            ConfigError: If ``MTLKIT_PLUGINS`` cannot be read.
            PluginError: If a file cannot be imported.
        """
        paths = _distinct(files)
        rules = environment_rules(plugins=plugins)
        found = [*installed(), *map(read_file, paths)]
        return cls(_built_in(), found, rules=rules, trusted=frozenset(path.name for path in paths))

    def narrowed(
        self,
        origin: str,
        *,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        files: Sequence[Path] = (),
    ) -> Registry:
        """Return a registry that leaves out more than this one, and has files of its own.

        Args:
            origin: Who says so, for errors.
            allow: The only distributions that may be used; None for all that may be used here.
            deny: Distributions that may not be used.
            files: Python files that are plugins too, unless the environment's rules leave them out.

        Raises:
            ConfigError: If what is given is no distribution's name.
            PluginError: If a file cannot be imported, or may not be used.
        """
        deny = list(deny)
        rule = Rule.of(origin, allow, deny)
        found = dict(self.distributions)
        for path in _distinct([*self.files.values(), *files]):
            if path.name in self.files or rule.status(path.name).state is not State.OK:
                continue
            for each in self.rules:
                status = each.status(path.name)
                if status.state is not State.OK:
                    raise PluginError(
                        f"{origin} names the file {path}, and {status.reason}: a configuration cannot widen what the "
                        f"environment allows. To use it, say so on the command line: --plugin {shlex.quote(str(path))}"
                    )
            found[path.name] = read_file(path)
        others = self._given - {r for each in self.distributions.values() for r in each.records}
        return Registry(others, found.values(), rules=[*self.rules, rule], trusted=self._trusted)

    # --- what is there ---

    @property
    def files(self) -> dict[str, Path]:
        """The files that are plugins, by their names."""
        return {n: Path(each.location) / n for n, each in self.distributions.items() if is_file(n)}

    @property
    def unreadable(self) -> dict[str, str]:
        """What is wrong with each distribution whose entry points cannot be read."""
        return {name: each.unreadable for name, each in self.distributions.items() if each.unreadable}

    def records(self, kind: str | None = None) -> list[Record]:
        """Return what is installed of one kind, or of every kind, sorted; what may not be used too."""
        return [record for record in self._records if kind in {None, record.kind}]

    def usable(self, kind: str | None = None) -> list[Record]:
        """Return what may be used, as far as metadata tells."""
        return [r for r in self.records(kind) if self.status(r).state in {State.OK, State.AMBIGUOUS}]

    def status(self, record: Record) -> Status:
        """Return whether a component may be used; whether it can be loaded shows when it is."""
        if record in self._broken:
            return self._broken[record]
        fixed = self._fixed.get(record, Status())
        if fixed.state is State.OK and self.is_ambiguous(record):
            reason = f"{_providers(self._usable[record.kind, record.name])} have one name"
            return Status(State.AMBIGUOUS, reason, f"Name it {record.qualified}.")
        return fixed

    def is_ambiguous(self, record: Record) -> bool:
        """Return whether another distribution provides a usable component of this kind and name too."""
        return any(other != record for other in self._usable.get((record.kind, record.name), ()))

    def name_of(self, record: Record) -> str:
        """Return the shortest name that will do."""
        return record.qualified if self.is_ambiguous(record) else record.name

    # --- by name ---

    def find(self, kind: str, name: str) -> Record:
        """Return the one component of this kind and name.

        Args:
            kind: One of :data:`~mtlkit.hookspecs.KINDS`.
            name: The short name, or ``distribution:name``; in any case, and any Unicode normal form.

        Raises:
            ConfigError: If the name is unknown, or more than one distribution provides it.
            PluginError: If the name says which distribution provides it, and that one is not installed, or what has the
                name may not be used.
        """
        distribution, short = split(name)
        named = [r for r in self.records(kind) if r.name == short and distribution in {"", r.distribution}]
        if not named:  # then it may be one whose name has a ':' in it, which says that it cannot be used
            named = [r for r in self.records(kind) if r.name == normal(name)]
        found = [record for record in named if self._fixed[record].state is State.OK]
        if len(found) == 1:
            return found[0]
        singular = SINGULAR[kind]
        if found:
            remedy = f"Say which one is meant: {_providers(found)}."
            raise ConfigError(Problem(f"Ambiguous {singular} '{name}'", remedy=remedy))
        if named:
            self._refuse(named[0], self._fixed[named[0]])
        if distribution:
            self._refuse_absent(f"The {singular} '{name}'", distribution)
        known = [self.name_of(record) for record in self.usable(kind)]
        remedy = closest(short, known, kind="Installed" if kind == "tasks" else "Known")
        if kind == "tasks":
            remedy += " Tasks come from plugins: install the one that provides it."
        raise ConfigError(Problem(f"Unknown {singular} '{name}'", remedy=remedy))

    def load(self, record: Record) -> Any:
        """Import one component: its class, its command, or for the kind ``plugins`` the plugin if it is no class.

        Raises:
            PluginError: If it may not be used, cannot be imported, or is not what its group asks for.
        """
        status = self._fixed.get(record, Status())
        if status.state is not State.OK:
            self._refuse(record, status)
        try:
            return load(record)
        except Refused as error:
            reason, remedy = error.refusal
            remedy = remedy or f"Reinstall or update {record.distribution}, or tell its authors."
            self._broken[record] = Status(State.BROKEN, reason, remedy)
            cause = error.__cause__ or error
        # Outside of the clause, so that the error's cause is the plugin's own.
        return self._refuse(record, self._broken[record], cause)

    def check_required(self, requirement: str) -> None:
        """Check that a distribution is installed in a version that a requirement (PEP 508) admits, and may be used.

        Raises:
            PluginError: If it is not.
        """
        parsed = Requirement(requirement)
        name = canonicalize_name(parsed.name)
        provider = self.distributions.get(name)
        problem = unmet(parsed, provider.version if provider else None)
        if problem:
            raise PluginError(problem)
        if provider is not None and applies(parsed):
            for status in (*(rule.status(name) for rule in self._rules_for(name)), provider.status):
                if status.state is not State.OK:
                    raise PluginError(f"{requirement} is required, and {status.reason}. {status.remedy}")

    # --- parts ---

    def _fixed_status(self, record: Record, refused: Mapping[Record, Status]) -> Status:
        if record.distribution == OWN:
            return Status()
        for rule in self._rules_for(record.distribution):
            status = rule.status(record.distribution)
            if status.state is not State.OK:
                return status
        provider = self.distributions.get(record.distribution)
        if provider is not None and provider.status.state is not State.OK:
            return provider.status
        return refused.get(record, Status())

    def _rules_for(self, distribution: str) -> list[Rule]:
        return [rule for rule in self.rules if not (rule.from_environment and distribution in self._trusted)]

    def _refuse_absent(self, what: str, distribution: str) -> None:
        """Refuse what comes from a distribution that is not there, or cannot be read."""
        details = {"distribution": distribution}
        if distribution in self.unreadable:
            details["version"] = self.distributions[distribution].version
            where = f"cannot be found in {distribution} {details['version']}"
            reason = f"its entry points cannot be read ({self.unreadable[distribution]})"
            remedy = f"Reinstall it: pip install --force-reinstall {distribution}"
        elif self._is_installed(distribution):
            return
        elif is_file(distribution):
            where = f"comes from the file '{distribution}'"
            reason = "which was not given"
            remedy = f"Give it: --plugin {shlex.quote(distribution)}, or plugins.files in the configuration."
            for status in (rule.status(distribution) for rule in self.rules if not rule.from_environment):
                if status.state is not State.OK:
                    reason, remedy = f"and {status.reason}", status.remedy
        else:
            where = f"comes from the distribution '{distribution}'"
            reason = "which is not installed"
            remedy = f"Install it: pip install {distribution}"
        joint = ":" if "version" in details else ","
        raise PluginError(f"{what} {where}{joint} {reason}. {remedy}", **details, reason=reason, remedy=remedy)

    def _is_installed(self, distribution: str) -> bool:
        if any(record.distribution == distribution for record in self._records):
            return True
        try:
            importlib.metadata.distribution(distribution)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    @staticmethod
    def _refuse(record: Record, status: Status, cause: BaseException | None = None) -> NoReturn:
        verb = {State.DISABLED: "is disabled", State.INCOMPATIBLE: "is incompatible"}.get(
            status.state, "cannot be loaded"
        )
        raise PluginError(
            f"The {SINGULAR[record.kind]} '{record.name}' {verb} ({record.provider}): {status.reason}. {status.remedy}",
            state=str(status.state),
            distribution=record.distribution,
            version=record.version,
            entry_point=record.entry_point,
            reason=status.reason,
            remedy=status.remedy,
        ) from cause


def _distinct(files: Iterable[str | Path]) -> list[Path]:
    """Return the files by their full paths, each once.

    Raises:
        PluginError: If two have one name: their components could not be told apart.
    """
    seen: dict[str, Path] = {}
    for each in files:
        path = Path(os.path.abspath(each))  # noqa: PTH100 - without '..', and whatever a link is called
        if seen.setdefault(path.name, path) != path:
            both = f"{seen[path.name]} and {path}"
            raise PluginError(f"Two plugins are files called {path.name}: {both}. Rename one.")
    return list(seen.values())


def _providers(records: Iterable[Record]) -> str:
    return " and ".join(f"{each.qualified} ({each.distribution} {each.version})" for each in records)


def _built_in() -> Iterator[Record]:
    for kind, name, value in BUILTINS:
        yield Record(kind, normal(name), OWN, __version__, value)
