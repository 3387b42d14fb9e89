"""What a new plugin is called, what is written, and that it installs and passes its own tests at birth."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import mtlkit
from mtlkit.errors import ConfigError, StorageError
from mtlkit.registry.distributions import recommended_requirement
from mtlkit.scaffold import KINDS, Names, scaffold

ROOT = Path(__file__).parents[2]
KIND = pytest.mark.parametrize("kind", KINDS)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read_toml(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))


class TestNames:
    @pytest.mark.parametrize(
        ("given", "module", "component", "class_name"),
        [
            ("acme-mtl", "acme_mtl", "acme", "Acme"),
            ("Acme_MTL", "acme_mtl", "acme", "Acme"),
            ("mtlkit-digits", "mtlkit_digits", "digits", "Digits"),
            ("mtlkit-wine-tasks", "mtlkit_wine_tasks", "wine", "Wine"),
            ("wave-net-encoder", "wave_net_encoder", "wave-net", "WaveNet"),
            ("half.moons", "half_moons", "half-moons", "HalfMoons"),
            ("mtlkit-mtl", "mtlkit_mtl", "mtl", "Mtl"),
            ("mtlkit-3d-tasks", "mtlkit_3d_tasks", "mtlkit-3d-tasks", "Mtlkit3dTasks"),  # 3d begins no class
            ("mtlkit-class", "mtlkit_class", "mtlkit-class", "MtlkitClass"),
            ("true-mtl", "true_mtl", "true-mtl", "TrueMtl"),
            ("tasks", "tasks", "tasks", "Tasks"),
        ],
    )
    def test_follow_from_the_distributions(self, given, module, component, class_name):
        names = Names.of(given)
        assert (names.module, names.component, names.class_name) == (module, component, class_name)
        assert names.qualified == f"{names.distribution}:{component}"
        assert names.attribute.isidentifier()

    def test_a_component_may_have_another(self):
        names = Names.of("acme-mtl", "Half-Moons")
        assert (names.component, names.attribute, names.class_name) == ("half-moons", "half_moons", "HalfMoons")

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("", "No distribution can be called ''"),
            ("-acme", "No distribution can be called '-acme'"),
            ("acme-", "No distribution can be called 'acme-'"),
            ("../acme", "No distribution can be called '../acme'"),
            ("acme mtl", "No distribution can be called 'acme mtl'"),
            ("acme\n", r"No distribution can be called 'acme\n'"),
            ("acmé", "No distribution can be called 'acmé'"),
            ("3d-tasks", "its module would be '3d_tasks', and a module's name begins with a letter"),
            ("lambda", "its module would be 'lambda', and that is a keyword"),
            ("JSON", "its module would be 'json', which Python has already"),
            ("mtlkit", "'mtlkit' is what a plugin plugs into"),
            ("MTLKit", "'MTLKit' is what a plugin plugs into"),
        ],
    )
    def test_that_cannot_be_a_distribution_or_a_module_are_refused(self, tmp_path, name, what):
        with pytest.raises(ConfigError) as refused:
            scaffold(name, folder=tmp_path)
        assert what in str(refused.value)
        assert refused.value.problems[0].remedy
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "component", ["", "half moons", "acme:moons", "-moons", "3d", "class", "none", "moöns", "a--b"]
    )
    def test_that_cannot_be_a_component_are_refused(self, tmp_path, component):
        with pytest.raises(ConfigError, match="half-moons, say"):
            scaffold("acme-mtl", component=component, folder=tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("kind", "component", "hidden"),
        [
            ("task", "tensor", "'Tensor' is something else in src/acme_mtl/__init__.py"),
            ("task", "moons", "'Moons' is something else in src/acme_mtl/__init__.py"),
            ("encoder", "block", "'Block' is something else in src/acme_mtl/__init__.py"),
            ("architecture", "mtlkit", "'mtlkit' is something else in src/acme_mtl/__init__.py"),
            ("strategy", "super", "'super' is something else in Python"),
        ],
    )
    def test_that_hide_something_are_refused(self, tmp_path, kind, component, hidden):
        with pytest.raises(ConfigError) as refused:
            scaffold("acme-mtl", kind=kind, component=component, folder=tmp_path)
        assert hidden in str(refused.value)
        assert "--component NAME" in str(refused.value)
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_kind_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"Unknown kind 'tasks'\. Known: task, encoder, architecture, strategy"):
            scaffold("acme-mtl", kind="tasks", folder=tmp_path)


class TestFiles:
    @KIND
    def test_are_those_of_a_distribution(self, tmp_path, kind):
        written = scaffold("Acme-MTL", kind=kind, folder=tmp_path / "made" / "anew")
        target = tmp_path / "made" / "anew" / "Acme-MTL"
        assert files_of(target) == {
            ".gitignore",
            "README.md",
            "pyproject.toml",
            "src/acme_mtl/__init__.py",
            "tests/test_acme_mtl.py",
        }
        assert {path.relative_to(target).as_posix() for path in written} == files_of(target)

    @KIND
    def test_have_every_place_filled_in(self, tmp_path, kind):
        for path in scaffold("acme-mtl", kind=kind, component="half-moons", folder=tmp_path):
            text = path.read_bytes().decode("utf-8")
            assert "{{" not in text
            assert "}}" not in text
            assert "\r" not in text
            assert text.endswith("\n")
            assert not text.endswith("\n\n")

    @KIND
    def test_say_what_pip_needs(self, tmp_path, kind):
        scaffold("Acme-MTL", kind=kind, component="half-moons", folder=tmp_path)
        pyproject = read_toml(tmp_path / "Acme-MTL" / "pyproject.toml")
        own = read_toml(ROOT / "pyproject.toml")
        assert pyproject["build-system"] == own["build-system"]
        project = pyproject["project"]
        assert project["name"] == "Acme-MTL"
        assert project["version"] == "0.1.0"
        assert project["requires-python"] == own["project"]["requires-python"]
        assert project["dependencies"] == [recommended_requirement()]
        assert project["entry-points"] == {f"mtlkit.{KINDS[kind]}": {"half-moons": "acme_mtl:half_moons"}}
        assert "license" not in project
        assert any("pytest" in each for each in project["optional-dependencies"]["test"])

    @KIND
    def test_pass_this_projects_own_lint(self, tmp_path, kind):
        scaffold("acme-mtl", kind=kind, folder=tmp_path / "plugins")
        ruff = (sys.executable, "-m", "ruff")
        config = ("--config", str(ROOT / "pyproject.toml"))
        source = ("--config", "src = ['plugins/acme-mtl/src']")
        # A strategy takes the Gram matrix whether or not it uses it, as mtlkit's own do.
        for command in (["check", "--ignore", "ARG002", *source], ["format", "--check"]):
            done = subprocess.run(
                [*ruff, *command, *config, "--no-cache", "plugins"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr

    @KIND
    def test_document_everything(self, tmp_path, kind):
        scaffold("acme-mtl", kind=kind, folder=tmp_path)
        tree = ast.parse((tmp_path / "acme-mtl" / "src" / "acme_mtl" / "__init__.py").read_text(encoding="utf-8"))
        for node in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
            assert ast.get_docstring(node)

    def test_fill_an_empty_folder(self, tmp_path):
        (tmp_path / "acme-mtl").mkdir()
        assert scaffold("acme-mtl", folder=tmp_path)

    def test_go_into_the_current_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert all(path.is_file() for path in scaffold("acme-mtl"))
        assert len(files_of(tmp_path / "acme-mtl")) == 5

    def test_never_take_the_place_of_others(self, tmp_path):
        (tmp_path / "acme-mtl").mkdir()
        (tmp_path / "acme-mtl" / "notes.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(ConfigError, match="exists already and is not empty") as refused:
            scaffold("acme-mtl", folder=tmp_path)
        assert "--dir" in str(refused.value)
        assert files_of(tmp_path) == {"acme-mtl/notes.txt"}

    def test_never_take_the_place_of_a_file(self, tmp_path):
        (tmp_path / "acme-mtl").write_text("mine", encoding="utf-8")
        with pytest.raises(ConfigError, match="exists already and is no folder"):
            scaffold("acme-mtl", folder=tmp_path)
        (tmp_path / "gone-mtl").symlink_to(tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="exists already and is no folder"):
            scaffold("gone-mtl", folder=tmp_path)
        assert (tmp_path / "acme-mtl").read_text(encoding="utf-8") == "mine"

    def test_that_cannot_be_written_are_a_storage_error(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="Cannot"):
            scaffold("acme-mtl", folder=tmp_path / "file")

    def test_are_taken_back_where_the_last_cannot_be_written(self, tmp_path, monkeypatch):
        original = Path.open

        def full_disk(self, *arguments, **options):
            if self.name.startswith("test_"):
                raise OSError(28, "No space left on device", str(self))
            return original(self, *arguments, **options)

        monkeypatch.setattr(Path, "open", full_disk)
        with pytest.raises(StorageError, match=r"Cannot write .*test_acme_mtl.py: No space left on device\."):
            scaffold("acme-mtl", folder=tmp_path / "made")
        assert list(tmp_path.iterdir()) == []


def test_every_template_is_packaged():
    patterns = read_toml(ROOT / "pyproject.toml")["tool"]["setuptools"]["package-data"]["mtlkit.scaffold"]
    package = ROOT / "mtlkit" / "scaffold"
    packaged = {path for pattern in patterns for path in package.glob(pattern)}
    assert packaged == {path for path in (package / "templates").rglob("*") if path.is_file()}


def test_the_requirement_admits_this_version_and_the_two_that_follow():
    specifier = Requirement(recommended_requirement()).specifier
    running = Version(mtlkit.__version__)
    assert specifier.contains(running)
    admitted = [minor for minor in range(running.minor + 10) if specifier.contains(f"{running.major}.{minor}.5")]
    assert admitted == [running.minor, running.minor + 1, running.minor + 2]
    assert not specifier.contains(f"{running.major + 1}.0")


# --- at birth ---


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    # One thread: the models are small, and threads that wait for a core are slow.
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def born(tmp_path_factory) -> Path:
    """Write a plugin of each kind and install them with pip, offline: a folder of theirs, and ``site`` beside them."""
    folder = tmp_path_factory.mktemp("born")
    for kind in KINDS:
        scaffold(f"acme-{kind}-mtl", kind=kind, component=f"half-{kind}", folder=folder)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--target", folder / "site", *(folder / f"acme-{kind}-mtl" for kind in KINDS), cwd=folder)
    return folder


def test_all_are_listed(born):
    listed = json.loads(
        run(sys.executable, "-W", "error", "-m", "mtlkit", "list", "--json", cwd=born, PYTHONPATH=str(born / "site"))
    )
    found = {record["name"]: record for record in listed if record["name"].startswith("half-")}
    assert {name: record["kind"] for name, record in found.items()} == {f"half-{k}": v for k, v in KINDS.items()}
    for kind in KINDS:
        assert found[f"half-{kind}"]["distribution"] == f"acme-{kind}-mtl"
        assert found[f"half-{kind}"]["version"] == "0.1.0"
        assert found[f"half-{kind}"]["summary"].endswith(".")


# Those of a task pass in tests/docs/test_tutorial.py, where it is begun, installed and tested as its author would.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "task"])
def test_its_tests_pass(born, kind):
    pytest_ = (sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-q")
    told = run(*pytest_, cwd=born / f"acme-{kind}-mtl", PYTHONPATH=str(born / "site"))
    assert " passed" in told
    assert "skipped" not in told


def test_they_train_together(born):
    """A run of the encoder, the strategy and the architecture as their READMEs set them, on tasks of the fourth."""
    mtlkit_ = (sys.executable, "-W", "error", "-m", "mtlkit")
    site = str(born / "site")
    settings = {
        "tasks": ["half-task", {"name": "half-task", "label": "other", "options": {"seed": 1}}],
        "optimizer": {"name": "adam", "lr": 0.01},
        "training": {"epochs": 2, "batch_size": 16, "device": "cpu"},
    }
    for section in ("encoder", "strategy", "architecture"):
        readme = (born / f"acme-{section}-mtl" / "README.md").read_text(encoding="utf-8")
        settings |= yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
        assert settings[section]["name"] == f"half-{section}"
    (born / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    trained = json.loads(run(*mtlkit_, "train", "run.yaml", "--json", cwd=born, PYTHONPATH=site))
    assert {label: result["metrics"]["accuracy"] > 0.75 for label, result in trained["test"].items()} == {
        "half-task": True,
        "other": True,
    }
