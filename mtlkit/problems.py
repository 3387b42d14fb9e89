"""What pydantic found wrong, as problems with a place, what was received and what would work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mtlkit.errors import Problem, closest
from mtlkit.yamlfile import Document, SettingPath

__all__ = ["as_json", "child", "dotted", "problems_of"]


def as_json(data: object) -> str:
    """Return `data` as JSON, which pydantic's strict mode reads as a person means it: a list may be a tuple."""
    return json.dumps({} if data is None else data, default=str)


def dotted(path: Iterable[str | int]) -> str:
    """Return a setting's path as it is written: ``tasks[0].weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def problems_of(
    error: ValidationError, document: Document, under: SettingPath, model: type[BaseModel]
) -> list[Problem]:
    """Translate pydantic's errors into problems with a place and a remedy.

    Args:
        error: What pydantic raised.
        document: Where the data came from, for the places.
        under: The path of the part that was validated.
        model: What it was validated as, for the names of its keys.
    """
    errors = error.errors(include_url=False)
    # A list counts its sound items alone, and is then too short as well as wrong inside.
    inside = {each["loc"][:length] for each in errors for length in range(len(each["loc"]))}
    errors = [each for each in errors if each["type"] != "too_short" or each["loc"] not in inside]
    problems = [_problem(each, document, under, model) for each in errors]
    return list(dict.fromkeys(problems))


def _problem(details: ErrorDetails, document: Document, under: SettingPath, model: type[BaseModel]) -> Problem:
    path = (*under, *_real_path(details["loc"], document.data, under))
    kind, received = details["type"], details.get("input")
    name = dotted(path)
    if kind == "missing":
        return Problem(
            f"Missing key '{path[-1]}'", dotted(path[:-1]), document.location(path[:-1]), "It has no default."
        )
    if kind == "extra_forbidden":
        known = _known_keys(model, path[len(under) : -1])
        return Problem(f"Unknown key '{path[-1]}'", name, document.key_location(path), closest(path[-1], known))
    where = document.location(path)
    if kind in {"union_tag_invalid", "literal_error"}:
        context = details.get("ctx", {})
        known = [
            word.strip().strip("'")
            for word in str(context.get("expected_tags") or context["expected"]).replace(" or ", ", ").split(",")
        ]
        if kind == "union_tag_invalid":
            received, name, where = context["tag"], f"{name}.name", document.location((*path, "name"))
        return Problem(f"Unknown value {_shown(received)}", name, where, closest(received, known))
    if kind == "union_tag_not_found":
        return Problem("Missing key 'name'", name, where, "It has no default.")
    expected = details["msg"].removeprefix("Value error, ").removesuffix(".")
    if kind == "value_error":
        return Problem(expected[:1].upper() + expected[1:], name, where)
    expected = re.sub(r"^(Input|List|Tuple|String|Value|Object)\b", "It", expected)
    expected = re.sub(r" after validation, not \d+$", "", expected)
    for theirs, ours in _WORDS.items():
        expected = expected.replace(theirs, ours)
    if kind == "string_pattern_mismatch":
        expected = _PATTERNS.get(str(path[-1]), expected)
    return Problem(f"Cannot use {_shown(received)}", name, where, f"{expected}.")


_WORDS = {"an object": "a mapping", "array": "list", "tuple": "list", "a valid string": "text", "string": "text"}

_PATTERNS = {
    "name": "A run's name has 1 to 80 letters, digits, '.', '_' or '-'",
    "label": "A label has 1 to 80 letters, digits, '_' or '-'",
    "device": "It should be auto, cpu, cuda, cuda:N or mps",
    "best": "It should be loss, last, or TASK/METRIC such as digit/accuracy",
}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    kind = {bool: "boolean", int: "integer", float: "number", str: "text", type(None): "null"}.get(type(value))
    shortened = text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004
    return f"{shortened} ({kind})" if kind and kind not in {"null", "text"} else shortened


def _real_path(location: Sequence[str | int], data: object, under: SettingPath) -> SettingPath:
    """Return pydantic's location without what it adds: the branches of unions, the words for keys."""
    for part in under:
        data = child(data, part)
    path: list[str | int] = []
    for index, part in enumerate(location):
        inside = child(data, part)
        if inside is None and index < len(location) - 1 and not (isinstance(data, Mapping) and part in data):
            continue
        path.append(part)
        data = inside
    return tuple(path)


def child(data: object, part: str | int) -> Any:
    """Return what a mapping or a list holds at a key or an index; None where it holds nothing."""
    if isinstance(data, Mapping):
        return data.get(str(part))
    if isinstance(data, Sequence) and not isinstance(data, str) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _known_keys(model: type[BaseModel], path: SettingPath) -> list[str]:
    """Return the keys that may stand at a path."""
    current: Any = model
    for part in path:
        if not isinstance(part, str) or part not in getattr(current, "model_fields", {}):
            continue
        current = current.model_fields[part].annotation
        while not hasattr(current, "model_fields"):
            parameters = [
                p for p in getattr(current, "__args__", ()) if hasattr(p, "__args__") or hasattr(p, "model_fields")
            ]
            if len(parameters) != 1:
                return _union_keys(parameters)
            current = parameters[0]
    return list(getattr(current, "model_fields", {}))


def _union_keys(models: Iterable[Any]) -> list[str]:
    keys = [key for model in models for key in getattr(model, "model_fields", {})]
    return list(dict.fromkeys(keys))
