"""The public names: exactly these, each importable on demand, each documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mtlkit

PUBLIC = [
    "Architecture",
    "Encoder",
    "Experiment",
    "FeatureSpec",
    "Handle",
    "InputSpec",
    "Measurement",
    "MultiTaskModel",
    "Needs",
    "Outlook",
    "Over",
    "Registry",
    "RunConfig",
    "RunResult",
    "Source",
    "Split",
    "Strategy",
    "Task",
    "Weighting",
    "__version__",
    "architectures",
    "backward",
    "baseline",
    "build",
    "check",
    "encoders",
    "errors",
    "evaluate",
    "heads",
    "hookimpl",
    "look_ahead",
    "plugin",
    "resume",
    "stems",
    "step",
    "strategies",
    "tasks",
    "testing",
    "train",
]
SUBPACKAGES = ["architectures", "encoders", "heads", "strategies"]


def names_for_type_checkers() -> dict[str, str]:
    """Return the names under TYPE_CHECKING in mtlkit/__init__.py, each with the module it is taken from."""
    tree = ast.parse(Path(mtlkit.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }


def test_the_public_names_are_these():
    assert mtlkit.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_resolves_to_one_object(name):
    value = getattr(mtlkit, name)
    assert value is getattr(mtlkit, name)
    assert value is not None


def test_star_import_brings_them_all():
    namespace: dict[str, object] = {}
    exec("from mtlkit import *", namespace)  # noqa: S102 - it is what is under test
    assert set(PUBLIC) <= namespace.keys()


def test_dir_shows_them():
    assert dir(mtlkit) == sorted(PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mtlkit' has no attribute 'Taks'"):
        _ = mtlkit.Taks
    assert not hasattr(mtlkit, "__wrapped__")


def test_type_checkers_and_the_interpreter_see_the_same():
    checked = names_for_type_checkers()
    assert checked.keys() | {"__version__"} == set(PUBLIC)
    for name, module in checked.items():
        home = importlib.import_module(module)
        expected = getattr(home, name) if hasattr(home, name) else importlib.import_module(f"{module}.{name}")
        assert getattr(mtlkit, name) is expected


def test_the_table_of_homes_is_complete():
    modules = {name for name, module in names_for_type_checkers().items() if module == "mtlkit"}
    assert modules == mtlkit._MODULES
    homes = {name: module for name, module in names_for_type_checkers().items() if module != "mtlkit"}
    assert homes == mtlkit._HOME


@pytest.mark.parametrize("name", [name for name in PUBLIC if not name.startswith("__")])
def test_each_is_documented(name):
    value = getattr(mtlkit, name)
    if not inspect.ismodule(value) and not callable(value):
        pytest.skip("a constant")
    assert (value.__doc__ or "").strip()  # not inspect.getdoc, which would take the docstring of a base


@pytest.mark.parametrize(
    "name", ["Architecture", "Encoder", "Handle", "Registry", "Source", "Split", "Strategy", "Task"]
)
def test_their_methods_are_documented(name):
    methods = {key: value for key, value in vars(getattr(mtlkit, name)).items() if not key.startswith("_")}
    functions = [key for key, value in methods.items() if callable(value) or isinstance(value, property | classmethod)]
    assert functions
    assert [key for key in functions if not methods[key].__doc__] == []


@pytest.mark.parametrize("name", [*SUBPACKAGES, "errors", "testing"])
def test_modules_say_what_they_export(name):
    module = getattr(mtlkit, name)
    assert all(getattr(module, each).__doc__ for each in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_every_error_that_is_raised_has_an_exit_code_of_its_own():
    kinds = [e for e in vars(mtlkit.errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    codes = {kind.__name__: kind.exit_code for kind in kinds if kind is not mtlkit.errors.Stopped}
    assert codes == {
        "MtlkitError": 1,
        "ConfigError": 2,
        "PluginError": 3,
        "DataError": 4,
        "CheckpointError": 5,
        "NonFiniteError": 6,
        "StorageError": 7,
    }


def test_importing_the_package_imports_no_torch():
    script = "import mtlkit, sys; print(*sorted({'torch', 'numpy', 'pydantic', 'pluggy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""
