"""Seeds: real configurations, from which mutations start, and every setting that there is."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtlkit.config import RunConfig, json_schema
from mtlkit.options import signature_of
from mtlkit.registry import Registry
from mtlkit.resolve import optimizers
from mtlkit.stems import STEMS
from mtlkit.yamlfile import SettingPath, parse

__all__ = ["configurations", "settings"]

ROOT = Path(__file__).resolve().parents[2]
TINY = Path(__file__).with_name("tiny_tasks.py")

_ROWS_FOR = {"cnn": "images", "resnet": "images", "vit": "images", "tabular": "tables", "transformer": "tokens"}
_SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"layers": [4, 4]},
    "cnn": {"channels": [4], "layers": [4]},
    "resnet": {"depth": 18, "width": 0.125},
    "vit": {"patch": 4, "width": 8, "depth": 2, "heads": 2},
    "tabular": {"width": 8, "embedding": 2},
    "transformer": {"width": 8, "depth": 2, "heads": 2},
}
_NEEDED: dict[str, dict[str, Any]] = {
    "auto-lambda": {"primary": ["kind"]},
    "linear": {"shape": [6]},
    "resize": {"size": [8, 8]},
    "patch": {"size": [2, 2]},
    "embed": {"width": 4},
}
_SHORT = {"steps": 2, "batch_size": 8, "device": "cpu", "threads": 1}


def configurations() -> list[Any]:
    """Return the configurations of the examples, the documentation and the tests, and one of every component."""
    return [*_written(), *_of_components()]


def settings() -> list[SettingPath]:
    """Return the path of every setting that the schema of a configuration has, and of every option of a component."""
    schema = json_schema()
    paths = [path for path in _properties(schema, schema["$defs"], ()) if path]
    registry = Registry.discover()
    for section, kind in (("encoder", "encoders"), ("architecture", "architectures"), ("strategy", "strategies")):
        for record in registry.usable(kind):
            paths += [(section, name) for name in signature_of(registry.load(record)).names]
    for optimizer in optimizers().values():
        names = signature_of(optimizer, all_options=True).names
        paths += [("optimizer", name) for name in names]
    return sorted(set(paths), key=str)


def _written() -> Iterator[Any]:
    """Yield what people wrote: whole files, and the snippets of the documentation with tasks beside them."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("examples/**/*.yaml"))]
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]:
        blocks = re.findall(r"^ *```yaml\n(.*?)^ *```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        texts += map(textwrap.dedent, blocks)
    for path in (ROOT / "tests" / "cli" / "conftest.py", ROOT / "tests" / "unit" / "test_yamlfile.py"):
        texts += re.findall(r'^RUN = """\\\n(.*?)"""', path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for text in texts:
        data = parse(text).data
        if isinstance(data, dict):
            yield {"tasks": ["kind", "size"], **data}


def _of_components() -> Iterator[Any]:
    """Yield a small run of every encoder, architecture, strategy, optimizer, stem, schedule and mixing."""
    every = RunConfig.model_validate({"tasks": ["kind", "size"]}).model_dump(mode="json")
    yield every | {
        "training": every["training"] | {"epoch_length": None, **_SHORT}
    }  # every setting, as it is by default
    registry = Registry.discover()
    for record in registry.usable("encoders"):
        yield _small(encoder=record.name)
    for kind, section in (("architectures", "architecture"), ("strategies", "strategy")):
        for record in registry.usable(kind):
            plain = signature_of(registry.load(record))
            options = plain.model.model_construct()
            given = {
                str(field.alias): getattr(options, name)
                for name, field in plain.model.model_fields.items()
                if not field.is_required()
            }
            yield _small(**{section: {"name": record.name, **plain.plain(given), **_NEEDED.get(record.name, {})}})
    for name in optimizers():
        yield _small(optimizer={"name": name, "lr": 0.01})
    for name in STEMS:
        stem = {"name": name, **_NEEDED.get(name, {})}
        yield _small(
            tasks=[
                {"name": "kind", "options": {"rows": "images"}, "stem": stem},
                {"name": "size", "options": {"rows": "images"}, "stem": stem},
            ]
        )
    for name in ("constant", "linear", "cosine"):
        yield _small(schedule={"name": name, "warmup": 0.1})
    yield _small(schedule={"name": "step", "milestones": [0.5], "gamma": 0.1})
    for name in ("all", "uniform", "proportional", "temperature", "annealed"):
        yield _small(mixing={"name": name})
    yield _small(mixing={"name": "ratios", "ratios": {"kind": 1, "size": 2}})
    yield _small(transfer={"freeze": [0], "unfreeze": {"every": 1}, "layer_decay": 0.5})
    yield _small(tasks=[{"name": "kind", "sampling": {"weights": "often"}}, {"name": "kind", "label": "again"}])
    yield _small(loading={"memory": "never", "workers": 0}, diagnostics={"every": 1}, checkpoints={"best": "last"})
    yield _small(hooks=["listener"], plugins={"allow": ["mtlkit-digits"], "strict": True})
    for precision in ("float64", "bfloat16", "float16"):
        yield _small(training=_SHORT | {"precision": precision, "accumulate": 2, "clip_norm": 1.0})


def _small(encoder: str = "mlp", **sections: Any) -> Any:
    rows = _ROWS_FOR.get(encoder, "vectors")
    tasks = [{"name": "kind", "options": {"rows": rows}}, {"name": "size", "weight": 0.5, "options": {"rows": rows}}]
    return {
        "run": {"name": "run", "seed": 1},
        "tasks": tasks,
        "encoder": {"name": encoder, **_SMALL.get(encoder, {})},
        "training": _SHORT,
    } | sections


def _properties(schema: Any, definitions: Any, path: SettingPath) -> Iterator[SettingPath]:
    """Yield the paths of a JSON Schema, the first item standing for all of a list."""
    yield path
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for branch in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        yield from _properties(branch, definitions, path)
    for name, inner in schema.get("properties", {}).items():
        yield from _properties(inner, definitions, (*path, name))
    if "items" in schema and path.count(0) < 2:
        yield from _properties(schema["items"], definitions, (*path, 0))
