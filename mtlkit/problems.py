"""What pydantic found wrong, as problems with a place, what was received and what would work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mtlkit.errors import ConfigError, Problem, closest
from mtlkit.yamlfile import Document, SettingPath, dotted, shortened

__all__ = ["as_json", "child", "problems_of"]


def as_json(data: object) -> str:
    """Return `data` as JSON, which pydantic's strict mode reads as a person means it: a list may be a tuple."""
    try:
        return json.dumps({} if data is None else data, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"The configuration is no plain data: {error}") from error


def _plain(value: object) -> object:
    """Return a NumPy number as the number that it is, anything else as text: a path, say."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else str(value)


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
    path = (*under, *_real_path(details, document.data, under))
    kind, received = details["type"], details.get("input")
    name = dotted(path)
    if kind == "missing":
        parent, what = path[:-1], f"Missing {'item' if isinstance(path[-1], int) else 'key'} '{path[-1]}'"
        return Problem(what, dotted(parent), document.location(parent), "It has no default.")
    if kind == "extra_forbidden":
        known = _known_keys(model, details["loc"][:-1])
        remedy = closest(path[-1], known) if known else "It takes no options."
        return Problem(f"Unknown key '{shortened(str(path[-1]))}'", name, document.key_location(path), remedy)
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
    "label": "A label has 1 to 80 letters, digits, '_' or '-'",
    "device": "It should be auto, cpu, cuda or cuda:N",
    "best": "It should be loss, last, or TASK/METRIC such as digit/accuracy",
}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    kind = {bool: "boolean", int: "integer", float: "number", str: "text", type(None): "null"}.get(type(value))
    shortened = text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004
    return f"{shortened} ({kind})" if kind and kind not in {"null", "text"} else shortened


def _real_path(details: ErrorDetails, data: object, under: SettingPath) -> SettingPath:
    """Return pydantic's location without what it adds: the branches of unions."""
    for part in under:
        data = child(data, part)
    location = details["loc"]
    path: list[str | int] = []
    for index, part in enumerate(location):
        if data is None or isinstance(data, Mapping):  # an empty document is an empty mapping
            # A key that is missing is not there, and stands last; what else is not there is no key.
            is_step = part in (data or ()) or (details["type"] == "missing" and index == len(location) - 1)
        else:
            is_step = isinstance(data, list) and isinstance(part, int)
        if is_step:
            path.append(part)
            data = child(data, part)
    return tuple(path)


def child(data: object, part: str | int) -> Any:
    """Return what a mapping or a list holds at a key or an index; None where it holds nothing."""
    if isinstance(data, Mapping):
        return data.get(str(part))
    if isinstance(data, Sequence) and not isinstance(data, str) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys that may stand at pydantic's location, which names the branch of a union by its tag."""
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", {})
        if part in fields:
            current = fields[part].annotation
        for branch in _models_in(current):
            tag = branch.model_fields.get("name")
            if tag is not None and part in get_args(tag.annotation):
                current = branch
    found = _models_in(current)
    return [field.alias or name for name, field in found[0].model_fields.items()] if found else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that an annotation is made of."""
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
