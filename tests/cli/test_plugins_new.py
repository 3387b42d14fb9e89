"""``mtlkit plugins new``: what it writes and says, and what it refuses."""

from __future__ import annotations

import errno
import json
import tomllib
from pathlib import Path

import pytest


def test_writes_a_plugin_and_says_what_is_next(mtlkit, folder):
    done = mtlkit("plugins", "new", "acme-mtl")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "Wrote acme-mtl: 5 files, with the task 'acme'. Now:",
        "  cd acme-mtl",
        "  pip install -e '.[test]'",
        "  pytest",
        "  mtlkit list tasks",
    ]
    assert done.stderr == ""
    assert (folder / "acme-mtl" / "src" / "acme_mtl" / "__init__.py").is_file()


@pytest.mark.parametrize(
    ("kind", "group"),
    [("task", "tasks"), ("encoder", "encoders"), ("strategy", "strategies"), ("architecture", "architectures")],
)
def test_of_each_kind(mtlkit, folder, kind, group):
    chosen = ("--kind", kind, "--component", "half-moons", "--dir", "of mine")
    done = mtlkit("plugins", "new", "acme-mtl", *chosen, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == {
        "folder": str(Path("of mine", "acme-mtl")),
        "distribution": "acme-mtl",
        "module": "acme_mtl",
        "kind": group,
        "component": "half-moons",
        "files": [
            "pyproject.toml",
            "README.md",
            ".gitignore",
            "src/acme_mtl/__init__.py",
            "tests/test_acme_mtl.py",
        ],
        "next": ["cd 'of mine/acme-mtl'", "pip install -e '.[test]'", "pytest", f"mtlkit list {group}"],
    }
    written = folder / "of mine" / "acme-mtl"
    assert all((written / path).is_file() for path in told["files"])
    project = tomllib.loads((written / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"] == {f"mtlkit.{group}": {"half-moons": "acme_mtl:half_moons"}}


def test_help(mtlkit):
    done = mtlkit("plugins", "new", "--help")
    assert done.exit_code == 0
    for option in ("--kind", "--component", "--dir", "--json", "--quiet"):
        assert option in done.stdout


class TestRefuses:
    def test_a_folder_that_holds_something(self, mtlkit, folder):
        (folder / "acme-mtl").mkdir()
        (folder / "acme-mtl" / "notes.txt").write_text("mine", encoding="utf-8")
        done = mtlkit("plugins", "new", "acme-mtl")
        assert done.exit_code == 2
        assert done.stdout == ""
        assert done.stderr == (
            "Error: The folder acme-mtl exists already and is not empty. "
            "It was left as it is. Take another name, or another folder: --dir FOLDER.\n"
        )
        assert [path.name for path in (folder / "acme-mtl").iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["mtlkit"],
            ["import"],
            ["2fast"],
            ["a/b"],
            ["acme-mtl", "--component", "Not A Name"],
            ["acme-mtl", "--component", "tensor"],
            ["acme-mtl", "--kind", "tasks"],
            ["acme-mtl", "extra"],
            [],
        ],
    )
    def test_what_it_cannot_use(self, mtlkit, folder, arguments):
        before = sorted(folder.iterdir())
        done = mtlkit("plugins", "new", *arguments)
        assert done.exit_code == 2
        assert done.stdout == ""
        assert "Error" in done.stderr
        assert "Traceback" not in done.stderr
        assert sorted(folder.iterdir()) == before

    def test_as_json(self, mtlkit):
        done = mtlkit("plugins", "new", "mtlkit", "--json")
        assert done.exit_code == 2
        (problem,) = json.loads(done.stdout)["error"]["problems"]
        assert problem["what"] == "'mtlkit' is what a plugin plugs into"
        assert problem["remedy"] == "Take another, such as mtlkit-acme."

    def test_a_folder_that_is_a_file(self, mtlkit, folder):
        done = mtlkit("plugins", "new", "acme-mtl", "--dir", "run.yaml")
        assert done.exit_code == 7
        assert done.stdout == ""
        assert done.stderr.startswith("Error: Cannot ")

    def test_a_folder_that_may_not_be_written_to(self, mtlkit, folder, monkeypatch):
        def forbid(path, *arguments, **options):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        before = sorted(folder.iterdir())
        monkeypatch.setattr(Path, "mkdir", forbid)
        done = mtlkit("plugins", "new", "acme-mtl")
        assert done.exit_code == 7
        assert done.stderr == "Error: Cannot write acme-mtl: Permission denied.\n"
        assert sorted(folder.iterdir()) == before
