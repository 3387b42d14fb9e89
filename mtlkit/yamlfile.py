r"""Safe YAML in which every key and every value knows its place in the text.

::

    document = parse("strategy:\n  name: mgda\n", "run.yaml")
    document.data                                                        # {"strategy": {"name": "mgda"}}
    document.location(("strategy", "name"))                              # "run.yaml:2:9"
    document.override(("seed",), 3, "command line").location(("seed",))  # "command line"

Plain words follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): ``no``,
``1:30`` and ``2024-01-01`` are strings, ``010`` is ten, and ``1e-3`` is a number. There are no tags, no merge
keys and no keys other than strings, and what a text may expand to is bounded. A refusal is a ConfigError that
says where.
"""

from __future__ import annotations

import copy
import pathlib
import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from mtlkit.boundedfile import read_bytes
from mtlkit.errors import ConfigError, Problem

__all__ = ["Document", "SettingPath", "dotted", "dump", "load", "parse", "parse_scalar", "shortened"]

SettingPath = tuple[str | int, ...]
_Places = dict[SettingPath, str]

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_ALIASES = 100
MAX_NODES = 100_000  # Aliases can make a short text expand without end ("billion laughs").
MAX_DIGITS = 500  # Python can be set to print at most 640 digits; 500 hexadecimal ones print as 602.

_LONGEST = 80  # letters of a name or a value in an error
_TAG = "tag:yaml.org,2002:"
_BASES = {"0o": 8, "0x": 16}
_CORE_SCHEMA: dict[str, tuple[str, Callable[[str], object]]] = {
    "null": (r"null|Null|NULL|~|", lambda _: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, _BASES.get(text[:2], 10))),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
}
_RESOLVERS = {None: [(_TAG + kind, re.compile(rf"(?:{form})\Z")) for kind, (form, _) in _CORE_SCHEMA.items()]}
_REPRESENTERS = {
    kind: yaml.SafeDumper.yaml_representers[kind] for kind in (dict, list, tuple, str, int, float, bool, type(None))
}


@dataclass(frozen=True)
class Document:
    """Plain data, and the place that each part of it came from.

    A path such as ``("tasks", 0, "weight")`` names a value by the keys and indexes that lead to it.

    Attributes:
        data: A tree of dict, list, str, int, float, bool and None; each alias got a copy of its value.
        source: The name of the file as it was given, or what stands for it where there is none.
    """

    data: object
    source: str
    _values: _Places = field(default_factory=dict, repr=False, compare=False)
    _keys: _Places = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_data(cls, data: object, source: str = "<config>") -> Document:
        """Wrap data that has no text, and so no places."""
        return cls(data, source)

    def location(self, path: SettingPath) -> str:
        """Return the place of the value at path, or of its nearest parent that has one, or ``""``."""
        upwards = (path[:length] for length in range(len(path), -1, -1))
        return next((self._values[parent] for parent in upwards if parent in self._values), "")

    def key_location(self, path: SettingPath) -> str:
        """Return the place of the key that path ends in, or else of its value."""
        return self._keys.get(path) or self.location(path)

    def override(self, path: SettingPath, value: object, origin: str) -> Document:
        """Return a copy in which path is set to value; mappings that are missing on the way are made.

        Args:
            path: The setting. A string is a key of a mapping; an int is the index of a list item that exists.
            value: What to set it to.
            origin: The place of this path, and of all below it, from now on; for example ``command line``.

        Raises:
            ConfigError: An index is out of range, or a parent is not the mapping or list that path expects.
        """
        data = copy.deepcopy(_assigned(self.data, path, 0, value, origin))
        parents = (path[:length] for length in range(1, len(path)))
        placed = dict.fromkeys((parent for parent in parents if not _holds(self.data, parent)), origin)
        placed[path] = origin
        values, keys = _outside(path, self._values) | placed, _outside(path, self._keys) | placed
        return Document(data, self.source, values, keys)

    def without(self, path: SettingPath) -> Document:
        """Return a copy without the mapping key that path ends in; with no such key, nothing changes."""
        if not path or isinstance(path[-1], int) or not _holds(self.data, path):
            return self
        data: Any = copy.deepcopy(self.data)
        parent = data
        for step in path[:-1]:
            parent = parent[step]
        del parent[path[-1]]
        return Document(data, self.source, _outside(path, self._values), _outside(path, self._keys))


def load(path: pathlib.Path) -> Document:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8 or above 1 MB, or ``parse`` refuses its text.
    """
    source = str(path)
    try:
        raw = read_bytes(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: the path holds a null character.
        what = f"The file cannot be read: {getattr(error, 'strerror', None) or error}"
        raise _refusal(what, source, "Give the path of a YAML file that exists and can be read.") from error
    _check_size(raw, source)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        what = f"Byte 0x{raw[error.start]:02X} is not UTF-8 text: {error.reason}"
        place = _end_place(raw[: error.start].decode(), source)
        raise _refusal(what, place, "Save the file as UTF-8.") from error
    return parse(text, source)


def parse(text: str, source: str = "<string>") -> Document:
    """Read one YAML document; a text that holds none has the data None.

    Args:
        text: The YAML, with or without a byte order mark.
        source: What to call it in locations.

    Raises:
        ConfigError: It is not YAML, or goes beyond the subset and the bounds of this module.
    """
    text = text.removeprefix("\ufeff")
    _check_size(text.encode(errors="surrogatepass"), source)
    root = _composed(text, source)
    values: _Places = {(): f"{source}:1:1"}
    keys: _Places = {}
    return Document(None if root is None else _built(root, (), values, keys), source, values, keys)


def parse_scalar(text: str) -> object:
    """Return what the value of a command line override, such as ``[64, 32]`` or ``1e-3``, stands for.

    The empty text stands for the empty string.

    Raises:
        ConfigError: As for ``parse``.
    """
    return parse(text, "<value>").data if text else ""


def dump(data: object) -> str:
    """Return block style YAML, keys in the order given, that ``parse`` reads back to an equal value.

    Raises:
        TypeError: Some part is not dict, list, tuple, str, int, float, bool or None; or a key is not str.
    """
    text: str = yaml.dump(
        data, Dumper=_Dumper, default_flow_style=False, sort_keys=False, allow_unicode=True, width=sys.maxsize
    )
    return text


def dotted(path: SettingPath) -> str:
    """Return a setting's path as it is written: ``tasks[0].weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{shortened(part)}" for part in path)
    return text.removeprefix(".")


def shortened(text: str) -> str:
    """Return a text as it is where it is short, else its beginning: a stranger's may have a million letters."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


class _Dumper(yaml.SafeDumper):
    """Puts a string in quotes where the table that the reader goes by would take it for something else."""

    yaml_implicit_resolvers = _RESOLVERS
    yaml_representers = _REPRESENTERS

    def represent_data(self, data: object) -> yaml.Node:
        if type(data) not in _REPRESENTERS:
            raise TypeError(f"YAML cannot hold {data!r}, which is a {type(data).__name__}")
        if isinstance(data, dict) and (odd := [key for key in data if not isinstance(key, str)]):
            raise TypeError(f"The keys of a mapping must be strings, not {odd[0]!r}")
        node: yaml.Node = super().represent_data(data)
        if isinstance(node, yaml.ScalarNode) and re.search("[\x85\u2028\u2029]", node.value):
            # PyYAML would write these line breaks as they are, and read them back as spaces.
            node.style = '"'
        return node

    def ignore_aliases(self, _data: object) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    """Refuses tags, deep nesting and crowds as the events go by, before the composer recurses."""

    yaml_implicit_resolvers = _RESOLVERS

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text)
        self.name = source
        self._nodes = self._aliases = 0
        self._open_anchors: list[str | None] = []

    def get_event(self) -> yaml.Event:
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call]
        place = _place(event.start_mark)
        if tag := getattr(event, "tag", None):
            what = f"Tag '{shortened(tag.replace(_TAG, '!!'))}' is not supported"
            raise _refusal(what, place, "Remove it, or quote the text if it only begins with '!'.")
        if isinstance(event, yaml.NodeEvent):
            self._nodes += 1
            _check_nodes(self._nodes, place)
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if event.anchor in self._open_anchors:
                what = f"Alias '*{shortened(str(event.anchor))}' is inside the value that it repeats"
                raise _refusal(what, place, "Write out what is meant here.")
            if self._aliases > MAX_ALIASES:
                raise _refusal(f"More than {MAX_ALIASES} aliases", place, "Write some of the values out.")
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open_anchors.append(event.anchor)
            _check_depth(len(self._open_anchors), place)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open_anchors.pop()
        return event


def _composed(text: str, source: str) -> yaml.Node | None:
    """Return the root node; whatever PyYAML raises becomes a ConfigError."""
    try:
        loader = _Loader(text, source)
    except yaml.reader.ReaderError as error:
        what = f"Character U+{error.character:04X} is not allowed in YAML"
        remedy = r'Remove it, or write it as an escape in double quotes, such as "\x07".'
        raise _refusal(what, _end_place(text[: error.position], source), remedy) from error
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        context = f"{error.context} ({_place(error.context_mark)}), " if error.context_mark else ""
        remedy = "Check indentation (spaces, no tabs), brackets and quotes; quote text with special signs."
        place = _place(error.problem_mark or loader.get_mark())
        problem = re.sub("'[^']{80,}'", lambda found: f"'{shortened(found[0][1:-1])}'", str(error.problem))
        raise _refusal(f"Not valid YAML: {context}{problem}", place, remedy) from error
    except (ValueError, OverflowError) as error:
        # PyYAML lets these out for the escape "\UFFFFFFFF", and for a %YAML version of thousands of digits.
        place = _place(loader.get_mark())
        raise _refusal(f"Not valid YAML: {error}", place, "Correct the escape or the number here.") from error


def _built(node: yaml.Node, path: SettingPath, values: _Places, keys: _Places) -> object:
    """Return the data of a node, entering the places of all its parts in values and keys."""
    place = values[path] = _place(node.start_mark)
    _check_nodes(len(values) + len(keys), place)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path)
    _check_depth(len(path) + 1, place)
    if isinstance(node, yaml.SequenceNode):
        return [_built(item, (*path, index), values, keys) for index, item in enumerate(node.value)]
    data: dict[str, object] = {}
    for key_node, value_node in node.value:
        key = _key(key_node, path)
        inner, place = (*path, key), _place(key_node.start_mark)
        if key in data:
            what = f"Duplicate key '{shortened(key)}' (first at {keys[inner]})"
            raise _refusal(what, place, "Keep one of them.", inner)
        keys[inner] = place
        data[key] = _built(value_node, inner, values, keys)
    return data


def _key(node: yaml.Node, path: SettingPath) -> str:
    key = _scalar(node, path) if isinstance(node, yaml.ScalarNode) else node
    if isinstance(key, str):
        return key
    kind = node.tag.removeprefix(_TAG)
    received = {"seq": "a list", "map": "a mapping"}.get(kind, f"the {kind} '{shortened(str(node.value))}'")
    what = f"A key must be a string, not {received}"
    raise _refusal(what, _place(node.start_mark), "Put it in quotes.", path)


def _scalar(node: yaml.ScalarNode, path: SettingPath) -> object:
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    place = _place(node.start_mark)
    if kind == "int" and len(text) > MAX_DIGITS:
        raise _refusal(f"An int of {len(text)} digits", place, f"At most {MAX_DIGITS} can be read.", path)
    if kind in _CORE_SCHEMA:
        return _CORE_SCHEMA[kind][1](text)
    if re.search("[\ud800-\udfff]", text):
        what = "An escape that stands for half a character (a surrogate)"
        raise _refusal(what, place, r'Write the character, or "\U0001F600" for both halves.', path)
    return text


def _assigned(data: object, path: SettingPath, done: int, value: object, origin: str) -> object:
    """Return data with value in place of what path, after the steps already done, leads to."""
    if done == len(path):
        return value
    step = path[done]
    if isinstance(step, str) and (data is None or isinstance(data, dict)):
        mapping: dict[str, object] = data or {}
        return mapping | {step: _assigned(mapping.get(step), path, done + 1, value, origin)}
    if isinstance(step, int) and isinstance(data, list) and 0 <= step < len(data):
        return [*data[:step], _assigned(data[step], path, done + 1, value, origin), *data[step + 1 :]]
    received, remedy = reprlib.repr(data), "Only a mapping or a list has settings below it."
    if isinstance(data, dict):
        received, remedy = "a mapping", f"Use a key, not the index {step}."
    elif isinstance(data, list):
        received, remedy = f"a list of {len(data)}", f"Use the index of an item, from 0, not '{step}'."
    parent = f"'{dotted(path[:done])}'" if done else "the whole configuration"
    raise _refusal(f"Cannot set '{dotted(path)}': {parent} is {received}", origin, remedy, path)


def _holds(data: object, path: SettingPath) -> bool:
    for step in path:
        inner = dict(enumerate(data)) if isinstance(data, list) else data
        if not isinstance(inner, dict) or step not in inner:
            return False
        data = inner[step]
    return True


def _outside(path: SettingPath, places: _Places) -> _Places:
    return {other: place for other, place in places.items() if other[: len(path)] != path}


def _check_size(raw: bytes, source: str) -> None:
    if len(raw) > MAX_BYTES:
        place = _end_place(raw[:MAX_BYTES].decode(errors="ignore").removeprefix("\ufeff"), source)
        raise _refusal(f"The text is larger than {MAX_BYTES} bytes", place, "Keep data in files of their own.")


def _check_depth(depth: int, place: str) -> None:
    if depth > MAX_DEPTH:
        raise _refusal(f"Nested more than {MAX_DEPTH} levels deep", place, "Write it flatter.")


def _check_nodes(count: int, place: str) -> None:
    if count > MAX_NODES:
        what = f"More than {MAX_NODES} keys and values, counting all that aliases repeat"
        raise _refusal(what, place, "Write a smaller file.")


def _refusal(what: str, place: str, remedy: str, path: SettingPath = ()) -> ConfigError:
    return ConfigError(Problem(what, dotted(path), place, remedy))


def _place(mark: Any) -> str:
    return f"{mark.name}:{mark.line + 1}:{mark.column + 1}"


def _end_place(text: str, source: str) -> str:
    """Return the place just after text, lines counted as PyYAML counts them."""
    lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)
    return f"{source}:{len(lines)}:{len(lines[-1]) + 1}"
