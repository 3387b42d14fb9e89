"""Which part may import which, read from the source text; and what the quick commands leave unimported."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mtlkit"

ROOTS = {"_version", "boundedfile", "errors", "findings", "plainjson"}
SHAPE = {"config", "hookspecs", "options", "overrides", "problems", "runname", "yamlfile"}
PLACE = {"locking", "runname"}
NAMES = {"builtins", "registry", "scaffold", "summaries"}
MATHS = {
    "architectures",
    "banks",
    "columns",
    "data",
    "encoders",
    "experiment",
    "gradients",
    "heads",
    "layers",
    "memory",
    "model",
    "schedule",
    "solvers",
    "specs",
    "stems",
    "stepping",
    "tensors",
    "strategies",
    "task",
    "tasks",
    "transfer",
}
BELOW_ASSEMBLE = ROOTS | SHAPE | NAMES | MATHS
BELOW_CLI = BELOW_ASSEMBLE | {
    "engine",
    "locking",
    "resolve",
    "finetune",
    "assemble",
    "pretrained",
    "app",
    "audit",
    "baselines",
    "changes",
    "doctor",
    "provenance",
    "report",
    "runhooks",
    "runs",
    "testing",
}

# What each part of mtlkit may import of mtlkit when it is itself imported ...
MAY_IMPORT = {
    **dict.fromkeys(ROOTS, frozenset()),
    **dict.fromkeys(SHAPE, {"boundedfile", "errors"} | SHAPE),
    **dict.fromkeys(NAMES, ROOTS | SHAPE | NAMES),
    **dict.fromkeys(MATHS, {"errors"} | MATHS),
    "locking": {"errors"},
    "engine": {"_version", "boundedfile", "errors", "plainjson", "engine"} | PLACE | MATHS,
    "resolve": BELOW_ASSEMBLE,
    "finetune": BELOW_ASSEMBLE | {"resolve"},
    "assemble": BELOW_ASSEMBLE | {"assemble", "resolve", "finetune"},
    "audit": {"audit", "engine", "errors", "findings"} | MATHS,
    **dict.fromkeys(
        ["app", "baselines", "changes", "pretrained", "provenance", "report", "runhooks", "testing"], BELOW_CLI
    ),
    "runs": ROOTS | SHAPE | {"locking", "runs"},
    "doctor": ROOTS | SHAPE | NAMES | {"doctor"},
    "cli": ROOTS | SHAPE | NAMES | {"cli"},
    "__init__": {"_version"},
    "__main__": {"cli"},
}
# ... and what more in the bodies of functions, and for type checkers alone.
MAY_IMPORT_LATE = {
    "hookspecs": MATHS | {"engine"},
    "registry": MATHS,
    "runs": {"engine"},
    "cli": BELOW_CLI,
    "__init__": BELOW_CLI,
}

HEAVY = {"numpy", "rich", "safetensors", "scipy", "sklearn", "torch", "torchmetrics"}
LIGHT_PARTS = ROOTS | SHAPE | NAMES | {"doctor", "cli", "locking", "runs", "__init__", "__main__"}


@dataclass(frozen=True)
class Import:
    """One import: where it stands, what it names, and whether it waits for a function to run."""

    line: int
    name: str
    late: bool


class ImportReader(ast.NodeVisitor):
    """Collects the imports of one file; those in functions and under TYPE_CHECKING count as late."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.late = False
        self.found: list[Import] = []

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(node.lineno, alias.name, self.late) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        parents = self.package.split(".")
        origin = ".".join([*parents[: len(parents) + 1 - node.level], *filter(None, [node.module])])
        origin = origin if node.level else str(node.module)
        self.found += [Import(node.lineno, f"{origin}.{alias.name}", self.late) for alias in node.names]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_later(node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that ast looks for

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self._visit_later(node.body)
            for each in node.orelse:
                self.visit(each)
        else:
            self.generic_visit(node)

    def _visit_later(self, body: list[ast.stmt]) -> None:
        before, self.late = self.late, True
        for each in body:
            self.visit(each)
        self.late = before


def modules(package: Path) -> dict[str, Path]:
    """Return every module of a package by its dotted name; a package goes by its own."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> list[Import]:
    reader = ImportReader(name if path.stem == "__init__" else name.rpartition(".")[0])
    reader.visit(ast.parse(path.read_text(encoding="utf-8")))
    return reader.found


def part_of(name: str) -> str:
    """Return which part of mtlkit a dotted name belongs to: 'mtlkit.encoders.mlp.MLP' is of 'encoders'."""
    _, _, rest = name.partition(".")
    return rest.partition(".")[0] or "__init__"


def violations(package: Path) -> Iterator[str]:
    """Yield each import that the table forbids, as file:line: what is wrong."""
    known = {part_of(name) for name in modules(package)}
    for name, path in modules(package).items():
        part = "__main__" if path.stem == "__main__" else part_of(name)
        if part not in MAY_IMPORT:
            yield f"{path}:1: '{part}' has no row in the table of layers"
            continue
        for each in imports(name, path):
            where = f"{path}:{each.line}"
            top = each.name.partition(".")[0]
            if top == package.name:
                # `from mtlkit import Task` names no module: it goes through the package, which imports on demand.
                target = part_of(each.name) if part_of(each.name) in known | MAY_IMPORT.keys() else "__init__"
                allowed = MAY_IMPORT[part] | (MAY_IMPORT_LATE.get(part, set()) if each.late else set())
                if target not in allowed:
                    yield f"{where}: '{part}' may not import {each.name}" + (" even late" if each.late else "")
            elif top in HEAVY and part in LIGHT_PARTS and not each.late:
                yield f"{where}: '{part}' may not import {each.name} at module level"


def cycle(package: Path) -> list[str]:
    """Return one circle of modules that import one another at module level, or nothing."""
    known = modules(package)
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        # `from a.b import c` needs a.b.c where that is a module, and a.b where it is not.
        named = (each.name for each in imports(name, path) if not each.late)
        graph[name] = {n if n in known else n.rpartition(".")[0] for n in named} & known.keys()
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


class TestTheTable:
    def test_every_import_keeps_to_it(self):
        found = list(violations(PACKAGE))
        assert not found, "\n" + "\n".join(found)

    def test_no_circular_import(self):
        assert cycle(PACKAGE) == []

    def test_the_files_are_found(self):
        names = modules(PACKAGE).keys()
        assert {"mtlkit", "mtlkit.errors", "mtlkit.encoders", "mtlkit.encoders.mlp", "mtlkit.cli.train"} <= names


@pytest.fixture
def package(tmp_path):
    """Return a function that writes a fabricated mtlkit, file by file."""

    def write(**files: str) -> Path:
        root = tmp_path / "mtlkit"
        for name, text in files.items():
            path = root.joinpath(*name.split("__of__")[::-1]).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return root

    return write


class TestTheCheckItself:
    @pytest.mark.parametrize(
        ("part", "text", "line", "offender"),
        [
            ("errors", "import os\nfrom mtlkit.config import RunConfig\n", 2, "mtlkit.config.RunConfig"),
            ("config", "import mtlkit.registry\n", 1, "mtlkit.registry"),
            ("config", "import torch\n", 1, "torch"),
            ("config", "import torch.nn as nn\n", 1, "torch.nn"),
            ("registry", "if True:\n    from torch import nn\n", 2, "torch.nn"),
            ("registry", "try:\n    import numpy\nexcept ImportError:\n    pass\n", 2, "numpy"),
            ("hookspecs", "from mtlkit.task import Task\n", 1, "mtlkit.task.Task"),
            ("hookspecs", "class Hooks:\n    from mtlkit.task import Task\n", 2, "mtlkit.task.Task"),
            ("task", "from mtlkit import registry\n", 1, "mtlkit.registry"),
            ("task", "def f():\n    from mtlkit.config import RunConfig\n", 2, "mtlkit.config.RunConfig"),
            ("task", "from . import assemble\n", 1, "mtlkit.assemble"),
            ("task", "from mtlkit import Task\n", 1, "mtlkit.Task"),
            ("engine", "from mtlkit.config import RunConfig\n", 1, "mtlkit.config.RunConfig"),
            ("assemble", "from mtlkit.engine.loop import fit\n", 1, "mtlkit.engine.loop.fit"),
            ("app", "from mtlkit.cli import main\n", 1, "mtlkit.cli.main"),
            ("train__of__cli", "from mtlkit import app\n", 1, "mtlkit.app"),
            ("train__of__cli", "from mtlkit.engine.events import Event\n", 1, "mtlkit.engine.events.Event"),
            ("train__of__cli", "import rich\n", 1, "rich"),
            ("misc", "import os\n", 1, "no row"),
        ],
    )
    def test_it_finds(self, package, part, text, line, offender):
        root = package(**{part: text})
        (found,) = violations(root)
        file = root.joinpath(*part.split("__of__")[::-1]).with_suffix(".py")
        assert found.startswith(f"{file}:{line}: ")
        assert offender in found

    @pytest.mark.parametrize(
        ("part", "text"),
        [
            ("errors", "import os\n"),
            ("config", "from mtlkit.errors import ConfigError\nfrom mtlkit.yamlfile import Document\n"),
            ("registry", "def f():\n    import torch\n"),
            ("hookspecs", "if TYPE_CHECKING:\n    from mtlkit.engine import events\n"),
            ("hookspecs", "def base():\n    from mtlkit.task import Task\n"),
            ("task", "import torch\nfrom mtlkit.specs import InputSpec\n"),
            ("loop__of__engine", "from mtlkit.engine.events import Event\nfrom mtlkit.model import MultiTaskModel\n"),
            ("train__of__cli", "def train():\n    from mtlkit import app\n"),
        ],
    )
    def test_it_lets_pass(self, package, part, text):
        assert list(violations(package(**{part: text}))) == []

    def test_it_finds_a_circle(self, package):
        root = package(
            task="from mtlkit.model import Model\n", model="from mtlkit import specs\n", specs="import mtlkit.task\n"
        )
        assert set(cycle(root)) == {"mtlkit.task", "mtlkit.model", "mtlkit.specs"}

    def test_a_late_import_closes_no_circle(self, package):
        root = package(task="import mtlkit.model\n", model="def f():\n    import mtlkit.task\n")
        assert cycle(root) == []


# Runs a command in a process of its own, then fails if it has imported what it should not have.
PROBE = f"""
import sys
from mtlkit.cli import main
try:
    main(prog_name="mtlkit")
except SystemExit as stop:
    if stop.code:
        raise
loaded = sorted({HEAVY - {"rich"}!r} & sys.modules.keys())  # rich is quick, and draws the tables
if loaded:
    sys.exit("imported: " + ", ".join(loaded))
"""


def probe(*arguments: str, cwd: Path, before: str = "", path: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + PROBE, *arguments],
        cwd=cwd,
        env=os.environ | ({"PYTHONPATH": path} if path else {}),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestQuickCommands:
    @pytest.mark.parametrize(
        "command",
        [
            "--help",
            "--version",
            "list",
            "list tasks",
            "check --help",
            "train --help",
            "baseline --help",
            "schema",
            "init",
            "runs --help",
            "runs list .",
            "runs clean .",
            "resume --help",
        ],
    )
    def test_leaves_torch_unimported(self, tmp_path, command):
        done = probe(*command.split(), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout

    def test_list_names_the_digits_without_importing_them(self, tmp_path):
        done = probe("list", "tasks", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert {"digit", "parity"} <= {task["name"] for task in json.loads(done.stdout)}

    def test_the_check_fails_where_a_module_imports_torch(self, tmp_path):
        (tmp_path / "torch.py").write_text("# stands for the real one, which takes seconds\n", encoding="utf-8")
        before = "import mtlkit.summaries\nexec('import torch', vars(mtlkit.summaries))\n"
        done = probe("list", cwd=tmp_path, before=before, path=str(tmp_path))
        assert done.returncode == 1
        assert "imported: torch" in done.stderr
