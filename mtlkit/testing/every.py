"""What every component promises: sound metadata, options that a file can hold, and an import that harms nobody."""

from __future__ import annotations

import inspect
import json

import click

from mtlkit.errors import MtlkitError
from mtlkit.hookspecs import SINGULAR
from mtlkit.registry import OWN, Registry
from mtlkit.summaries import summary
from mtlkit.testing.checks import Checks, Nonconformance, require
from mtlkit.testing.isolated import LIGHT, changes_of_its_own, observed
from mtlkit.testing.probes import asking
from mtlkit.testing.subject import Subject
from mtlkit.yamlfile import Document

__all__ = ["CHECKS"]

CHECKS = Checks()

SUMMARY_LENGTH = 100
FACTS: dict[str, tuple[str, ...]] = {
    "tasks": (),
    "encoders": ("inputs",),
    "architectures": ("make_encoder", "n_tasks", "inputs"),
    "strategies": ("n_tasks", "loss_kinds", "n_classes", "labels"),
    "plugins": (),
}
"""What the constructor of each kind may take beside its options."""


@CHECKS
def loads_by_its_entry_point(subject: Subject) -> None:
    """It is loaded by its entry point, here and in a process of its own."""
    if subject.record is None:
        return
    _ = subject.component
    seen = observed(subject)
    require(
        not seen.error or seen.network,
        f"{subject.name} is loaded here, and a process that has imported nothing else of yours cannot load it: "
        f"{seen.error}",
        "Its module must import all that it needs itself.",
    )


@CHECKS
def its_distribution_bounds_mtlkit(subject: Subject) -> None:
    """Its distribution says from which version of mtlkit to which it works."""
    record = subject.record
    provider = None if record is None else Registry.discover().distributions.get(record.distribution)
    if record is None or record.distribution == OWN or provider is None:
        return
    own = provider.own_requirements
    spelt = " and ".join(f"'{each}'" for each in own) or "nothing of it"
    operators = {specifier.operator for each in own for specifier in each.specifier}
    pinned = any(each.url for each in own) or operators & {"==", "===", "~="}
    remedy = 'In pyproject.toml: dependencies = ["mtlkit>=X.Y,<X.Z"], where the contract may change at X.Z.'
    require(
        pinned or operators & {">=", ">"},
        f"{record.distribution} {record.version} has no lower bound for the version of mtlkit; it requires {spelt}",
        remedy,
    )
    require(
        pinned or operators & {"<=", "<"},
        f"{record.distribution} {record.version} has no upper bound for the version of mtlkit; it requires {spelt}",
        remedy,
    )


@CHECKS
def has_a_summary(subject: Subject) -> None:
    """A line says what it is: the first of its docstring, of a command the first of its help."""
    component = subject.component
    if isinstance(component, type):
        text, where = inspect.cleandoc(vars(component).get("__doc__") or ""), f"The class {component.__qualname__}"
    elif isinstance(component, click.Command):
        text, where = component.short_help or component.help or "", f"The command {subject.name}"
    else:
        text, where = summary(subject.record) if subject.record else "", subject.name
    line = text.strip().partition("\n")[0]
    require(
        line,
        f"{where} has no docstring of its own" if isinstance(component, type) else f"{where} has no docstring",
        "Its first line is what 'mtlkit list' shows.",
    )
    require(
        len(line) <= SUMMARY_LENGTH,
        f"{where} begins its docstring with a line of {len(line)} characters: {line!r}",
        f"'mtlkit list' shows this line: at most {SUMMARY_LENGTH} characters. More may stand after an empty line.",
    )


@CHECKS
def options_have_a_schema(subject: Subject) -> None:
    """The signature of its constructor is a schema: options are keyword-only and typed, as YAML can hold them."""
    if not _has_options(subject):
        return
    allowed = FACTS[subject.kind]
    unknown = [fact for fact in subject.signature.facts if fact not in allowed]
    require(
        not unknown,
        f"The constructor of {subject.name} takes {', '.join(map(repr, unknown))}, which is not keyword-only",
        f"Beside its options, {_article(subject.kind)} is given {', '.join(allowed) or 'nothing'}: put the options "
        "behind a *.",
    )


@CHECKS
def options_have_defaults(subject: Subject) -> None:
    """Each option has a default, or is given one to be tested with."""
    missing = _missing_options(subject)
    spelt = ", ".join(f"{name!r}: ..." for name in missing)
    require(
        not missing,
        f"{subject.name} has options without a default: {', '.join(missing)}",
        f"Give each a default, or say what to test with: conformance(..., options={{{spelt}}}).",
    )


@CHECKS
def options_survive_a_run_folder(subject: Subject) -> None:
    """Its options, defaults included, are equal once they were written to a file and read again."""
    if not _has_schema(subject) or _missing_options(subject):
        return
    signature, checked = subject.signature, subject.checked_options()
    with asking("Turning its options into plain data"):
        plain = signature.plain(checked)
        text = json.dumps(plain)
    try:
        again = signature.check(json.loads(text), Document.from_data({}), ())
    except MtlkitError as error:
        raise Nonconformance(
            f"The options of {subject.name} are {plain}, and its own schema refuses them: {error} A default is of the "
            "type that the annotation says."
        ) from error
    require(
        signature.plain(again) == plain,
        f"The options of {subject.name} were {plain}, and once written and read again {signature.plain(again)}",
        "What a run's config.yaml holds must make the same component again.",
    )
    if subject.kind == "tasks":
        for _ in range(2):
            with asking(f"Constructing {subject.name} from the options {plain}, as --resume does,"):
                subject.component(**again)
        require(
            signature.plain(again) == plain,
            f"Constructing {subject.name} changed its options to {signature.plain(again)}",
            "They are the configuration's own: copy what is to be changed.",
        )


@CHECKS
def importing_prints_nothing(subject: Subject) -> None:
    """Nothing is printed when it is imported and loaded."""
    printed = observed(subject).printed
    require(
        not printed,
        f"Loading {subject.name} printed {_short(printed)}",
        "Standard output is the command's own, --json included: use logging.",
    )


@CHECKS
def importing_needs_no_network(subject: Subject) -> None:
    """It is imported and loaded without the network."""
    attempts = observed(subject).network
    require(
        not attempts,
        f"Loading {subject.name} uses the network: {', '.join(attempts[:3])}",
        "Whoever lists, checks or resumes may have none: download in splits(), or when it is first needed.",
    )


@CHECKS
def importing_is_quick(subject: Subject) -> None:
    """Its module is imported in seconds, torch not counted."""
    seen = observed(subject)
    if seen.torch and subject.kind in LIGHT:
        return  # a check of its kind tells of that
    require(
        seen.seconds <= subject.import_seconds,
        f"Loading {subject.name} takes {seen.seconds:.1f} seconds, torch not counted, and may take "
        f"{subject.import_seconds:g}",
        "Import what is slow inside the functions that need it, and load data in splits(); or allow for it: "
        "conformance(..., import_seconds=...).",
    )


@CHECKS
def importing_changes_no_global_setting(subject: Subject) -> None:
    """Its import leaves the global settings and random states of Python and torch alone."""
    changed = changes_of_its_own(subject)
    require(
        not changed,
        f"Loading {subject.name} changes {', '.join(changed[:5])}",
        "These belong to the program that imports it, and to every other plugin: set them for the length of a call, "
        "and put them back.",
    )


def _has_options(subject: Subject) -> bool:
    return subject.kind in FACTS and isinstance(subject.component, type)


def _has_schema(subject: Subject) -> bool:
    """Return whether its options can be read; where they cannot, one check tells of it."""
    try:
        return _has_options(subject) and subject.signature is not None
    except Nonconformance:
        return False


def _missing_options(subject: Subject) -> list[str]:
    """Return the options that have no default and are not given."""
    if not _has_schema(subject):
        return []
    fields = subject.signature.model.model_fields.values()
    return [str(field.alias) for field in fields if field.is_required() and field.alias not in subject.options]


def _article(kind: str) -> str:
    word = SINGULAR[kind]
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")  # noqa: PLR2004 - a line of text
