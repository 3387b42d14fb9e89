"""Mutation: a configuration or a command line made wrong, in a way that its number alone decides."""

from __future__ import annotations

import copy
import itertools
import random
import string
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["extremes", "mutated_data", "mutated_text", "mutated_words"]

NUMBERS = [
    *(0, 1, 2, 3, 7, 16, 64, 1000, 10**4, 10**5, 10**9, 10**12, 10**15, 10**18, 10**30, 10**400),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64),
    *(-1, -2, -(10**9), -(2**63)),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-3, 1e-30, 5e-324, 1e30, 1e300, 1.7976931348623157e308),
    *(float("nan"), float("inf"), -float("inf")),
]
EXTREMES = [10**5, 10**9, 10**12, 10**18, 2**63, 10**400, -1, 0, 1e-300, 1e300, 0.5]
TEXTS = [
    *("", " ", "a", "name", "null", "true", "no", "010", "1:30", "1e-3", "~", "<<", "=", ".", "..", "../..", "a/b"),
    *("a\\b", "os.system", "os:system", "builtins:exec", "mtlkit:", ":mlp", "mtlkit:mlp:x", "tiny_tasks:kind"),
    *("no-such-dist:x", "CON", "nul.txt", "-", "--help", "-x", "%s", "{}", "{0.__class__}", "$HOME", "`id`"),
    *("[/]", "[red]", "</script>", "loss", "last", "kind/accuracy", "cpu", "cuda:0", "auto"),
    *("\x00", "\x1b[31mred", "\x07", "\r\n", "\t", "\x7f", "\x85", "\u2028", "\u202egpj", "\ufeff", "\ufffd", "\u200b"),
    *("é", "ß", "İ", "日本語", "😀", "e\u0301", "\u0661", "²"),
    *("x" * 81, "x" * 300, "x" * 5000, "a." * 1000, "[" * 60, "\U0010ffff" * 10),
]
KEYS = [
    *("name", "options", "label", "weight", "seed", "dir", "layers", "lr", "alpha", "warmup", "epochs", "steps"),
    *("every", "__class__", "model_config", "model_fields", "self", "cls", "0", "-1", "", " ", "a.b", "tasks[0]"),
    *("json", "<<"),
]
SYNTAX = [
    *("- ", ": ", "? ", "{", "}", "[", "]", ",", "&a ", "*a", "!!python/object/apply:os.system [id]", "!t "),
    *("| \n", ">-\n", "'", '"', "\\", "#", "%YAML 1.2\n---\n", "---\n", "...\n", "<<: *a\n", "\t", "\r"),
    *("\x00", "\x1b", "\ufeff", "\u2028", "\n", "  ", "~", "@", "`", "=", ".nan", "0o9", "1_000"),
    *('"\\UFFFFFFFF"', '"\\ud800"', "é", "😀", "[" * 60, "{a: " * 60),
]

Path = tuple[str | int, ...]


def mutated_data(chance: random.Random, data: Any, others: Sequence[Any], settings: Sequence[Path]) -> Any:
    """Return a configuration with one to three things wrong, or only odd.

    Args:
        chance: What decides.
        data: The configuration.
        others: Configurations to take parts from.
        settings: Paths of settings that there are, to be set to something.
    """
    data = copy.deepcopy(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        data = _mutated_once(chance, data, others, settings)
    return data


def extremes(seeds: Sequence[Any]) -> Iterator[Any]:
    """Yield configurations in which one number, of those that the seeds have, is much too large, or odd.

    A number is known by its path and the component that it is of, and tried once.
    """
    seen = set()
    for data in seeds:
        for path in _paths(data):
            value = _at(data, path)
            if not isinstance(value, int | float | None) or isinstance(value, bool) or len(path) < 2:
                continue
            section = _at(data, path[:1])
            key = (path, section.get("name") if isinstance(section, dict) else None)
            if key not in seen:
                seen.add(key)
                yield from (_put(data, path, extreme) for extreme in EXTREMES)
                if isinstance(path[-1], int):
                    yield _put(data, path[:-1], [value] * 3000)


def mutated_text(chance: random.Random, text: str) -> bytes:
    """Return the text of a configuration, damaged as a text."""
    raw = text.encode(errors="surrogatepass")
    for _ in range(chance.choice([1, 1, 2, 4])):
        raw = _damaged(chance, raw)
    return raw


def mutated_words(chance: random.Random, words: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return a command line with words dropped, doubled, swapped, put in or spoilt; no word leaves the folder."""
    made = list(words)
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(7):
            case 0:
                del made[at : at + 1]
            case 1:
                made[at:at] = made[at - 1 : at]
            case 2:
                chance.shuffle(made)
            case 3 | 4:
                made.insert(at, chance.choice(known))
            case 5:
                made.insert(at, _text(chance))
            case _ if at < len(made):
                made[at] = _spoilt(chance, made[at])
    return [word.replace("\x00", "") for word in made if not word.startswith(("/", "~"))]


def _mutated_once(chance: random.Random, data: Any, others: Sequence[Any], settings: Sequence[Path]) -> Any:
    paths = [path for path in _paths(data) if path]
    kind = chance.randrange(18)
    if kind < 4 or not paths:  # a setting that there is, whether or not it was given
        return _put(data, chance.choice(settings), _value(chance))
    path = chance.choice(paths)
    found = _at(data, path)
    match kind:
        case 4 | 5:
            return _put(data, path, _value(chance))
        case 6 | 14 | 15 | 16 | 17:
            return _put(data, path, _like(chance, found))
        case 7:
            return _without(data, path)
        case 8:
            return _renamed(chance, data, path)
        case 9:
            return _put(data, path, _at(data, chance.choice(paths)))
        case 10:
            other = chance.choice(others)
            there = [each for each in _paths(other) if each]
            return _put(data, path, copy.deepcopy(_at(other, chance.choice(there)))) if there else data
        case 11:
            return _put(data, path, _wrapped(chance, found))
        case 12:
            return _put(data, (*path[:-1], chance.choice(KEYS)), _value(chance))
        case _:
            other = chance.choice(others)
            section = chance.choice(list(other)) if isinstance(other, dict) and other else "tasks"
            return _put(data, (section,), copy.deepcopy(_at(other, (section,))))


def _value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(10)
    if kind < 4:
        return chance.choice(NUMBERS)
    if kind < 7 or depth > 2:
        return _text(chance)
    if kind == 7:
        return chance.choice([None, True, False, [], {}])
    if kind == 8:
        return [_value(chance, depth + 1) for _ in range(chance.choice([1, 2, 3]))]
    return {chance.choice(KEYS): _value(chance, depth + 1) for _ in range(chance.choice([1, 2]))}


def _like(chance: random.Random, value: Any) -> Any:
    """Return another value of the same type, so that what is wrong is its size or its sense."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([each for each in NUMBERS if isinstance(each, int)])
    if isinstance(value, float):
        return chance.choice([each for each in NUMBERS if isinstance(each, float)])
    if isinstance(value, str):
        return _spoilt(chance, value)
    if isinstance(value, list) and value:
        more = [*value, _value(chance)]
        return chance.choice([value[::-1], value * 2, value * 30, value[:1] * 3000, value[1:], more])
    return _value(chance)


def _wrapped(chance: random.Random, value: Any) -> Any:
    depth = chance.choice([1, 1, 2, 30, 49, 51])
    for _ in range(depth):
        value = [value] if chance.random() < 0.5 else {chance.choice(["name", "a", "options"]): value}
    return value


def _text(chance: random.Random) -> str:
    if chance.random() < 0.8:
        return chance.choice(TEXTS)
    return "".join(chance.choice(string.printable + "éß\x1b\x00\u202e😀") for _ in range(chance.randrange(20)))


def _spoilt(chance: random.Random, word: str) -> str:
    at = chance.randrange(len(word) + 1)
    return chance.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + chance.choice(string.printable) + word[at:],
            word[:at] + _text(chance) + word[at:],
            word.upper(),
            word * 2,
            f"mtlkit:{word}",
            f"{word}=",
            f"{word}={_text(chance)}",
            _text(chance),
        ]
    )


def _damaged(chance: random.Random, raw: bytes) -> bytes:
    at = chance.randrange(len(raw) + 1)
    lines = raw.splitlines(keepends=True) or [b""]
    line = chance.randrange(len(lines))
    match chance.randrange(10):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        case 2:
            return raw[:at] + raw[at + chance.randrange(1, 9) :]
        case 3 | 4 | 5:
            return raw[:at] + chance.choice(SYNTAX).encode() + raw[at:]
        case 6:
            return b"".join([*lines[:line], lines[line], *lines[line:]])
        case 7:
            return b"".join([*lines[:line], *lines[line + 1 :]])
        case 8:
            return b"".join([*lines[:line], chance.choice([b" ", b"  ", b"\t", b"- "]), *lines[line:]])
        case _:
            return chance.choice(
                [
                    raw.replace(b"\n", b"\r\n"),
                    b"\xef\xbb\xbf" + raw,
                    raw.decode(errors="replace").encode("utf-16"),
                    raw.replace(b" ", b"\t"),
                    raw + b"\n---\n" + raw,
                    raw * 2,
                    bytes(byte ^ (chance.random() < 0.02) for byte in raw),
                ]
            )


def _paths(data: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every value, of long lists only some."""
    yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _paths(value, (*path, key))
    elif isinstance(data, list):
        for index, value in itertools.islice(enumerate(data), 20):
            yield from _paths(value, (*path, index))


def _at(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return copy.deepcopy(data)


def _put(data: Any, path: Path, value: Any) -> Any:
    """Set a path, making whatever stands in its way a mapping."""
    if not path:
        return value
    key, *rest = path
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return [*data[:key], _put(data[key], tuple(rest), value), *data[key + 1 :]]
    if not isinstance(data, dict):
        data = {"name": data} if isinstance(data, str) else {}
    return {**data, str(key): _put(data.get(str(key)), tuple(rest), value)}


def _without(data: Any, path: Path) -> Any:
    key, *rest = path
    if isinstance(data, list) and isinstance(key, int):
        inner = [_without(data[key], tuple(rest))] if rest else []
        return [*data[:key], *inner, *data[key + 1 :]]
    if isinstance(data, dict) and key in data:
        if rest:
            return {**data, key: _without(data[key], tuple(rest))}
        return {name: value for name, value in data.items() if name != key}
    return data


def _renamed(chance: random.Random, data: Any, path: Path) -> Any:
    parent, key = _at(data, path[:-1]), path[-1]
    if not isinstance(parent, dict):
        return data
    name = chance.choice([_spoilt(chance, str(key)), chance.choice(KEYS), str(key)[:-1] or "x"])
    made = {name if each == key else each: value for each, value in parent.items()}
    return _put(data, path[:-1], made) if path[:-1] else made
