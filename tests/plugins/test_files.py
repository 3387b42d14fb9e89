"""Files as plugins: ``--plugin FILE.py`` and ``plugins.files``, from listing to a run that goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from mtlkit.yamlfile import load

FIXTURE = Path(__file__).parents[1] / "fixtures" / "acme.py"
TASKS = "tasks=[colour, 'my_wines.py:price']"


@pytest.fixture
def file(folder) -> Path:
    """A file with two sound tasks, beside run.yaml."""
    return Path(shutil.copy(FIXTURE, folder / "my_wines.py"))


@pytest.fixture
def named(file, folder) -> Path:
    """A configuration in a folder of its own that names a file beside it."""
    project = folder / "project"
    project.mkdir()
    file.rename(project / "my_wines.py")
    text = (folder / "run.yaml").read_text(encoding="utf-8")
    (project / "run.yaml").write_text(f"{text}plugins: {{files: [my_wines.py]}}\n", encoding="utf-8")
    return project / "my_wines.py"


class TestOnTheCommandLine:
    def test_it_is_listed(self, answer, mtlkit, file):
        (colour,) = [each for each in answer("list", "tasks", "--plugin", "my_wines.py") if each["name"] == "colour"]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert colour == {
            "kind": "tasks",
            "name": "colour",
            "distribution": "my_wines.py",
            "version": f"sha256:{digest[:12]}",
            "summary": "Whether the wine is red.",
        }
        assert "my_wines.py:colour" in mtlkit("show", "tasks", "colour", "--plugin", "my_wines.py").stdout
        (shown,) = [
            e for e in answer("plugins", "list", "--plugin", "my_wines.py") if e["distribution"] == "my_wines.py"
        ]
        assert {part["state"] for part in shown["components"]} == {"ok"}

    def test_it_is_not_there_otherwise(self, refused, file):
        assert "Unknown task 'colour'" in refused("check", "run.yaml", "tasks=[colour]", code=2)
        error = refused("check", "run.yaml", "tasks=['my_wines.py:colour']")
        assert "comes from the file 'my_wines.py', which was not given. Give it: --plugin my_wines.py, or" in error

    def test_train_evaluate_and_go_on(self, answer, refused, folder, file):
        given = ["--plugin", "my_wines.py", "--no-plugins"]  # which leaves out what is installed, and not this
        first = answer("train", "run.yaml", TASKS, *given)
        assert list(first["test"]) == ["colour", "price"]
        saved = load(folder / "runs/first/config.yaml").data
        assert saved["plugins"]["files"] == [str(file)]
        assert [task["name"] for task in saved["tasks"]] == ["my_wines.py:colour", "my_wines.py:price"]
        environment = json.loads((folder / "runs/first/environment.json").read_text(encoding="utf-8"))
        used = [each for each in environment["plugins"] if each["kind"] == "tasks"]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert [each["origin"] for each in used] == [{"url": file.as_uri(), "sha256": digest}] * 2
        assert answer("evaluate", "runs/first", *given)["tasks"] == first["test"]
        assert f"used the file {file} as a plugin. Give it: --plugin {file}" in refused("evaluate", "runs/first")
        # Its config.yaml names the file by its full path, so that it trains anew and goes on from anywhere.
        assert answer("train", "runs/first/config.yaml", "--resume")["test"] == first["test"]
        assert answer("train", "runs/first/config.yaml", "run.name=again")["test"] == first["test"]
        assert answer("train", "run.yaml", TASKS, "--resume", *given)["test"] == first["test"]
        assert "Give it: --plugin" in refused("train", "run.yaml", TASKS, "--resume")

    def test_a_path_with_spaces_is_quoted(self, answer, refused, folder):
        (folder / "my wines").mkdir()
        shutil.copy(FIXTURE, folder / "my wines" / "my_wines.py")
        answer("train", "run.yaml", "--plugin", "my wines/my_wines.py")
        assert f"Give it: --plugin '{folder / 'my wines' / 'my_wines.py'}'" in refused("evaluate", "runs/first")

    def test_two_files(self, answer, file, folder):
        shutil.copy(FIXTURE, folder / "cellar.py")  # a file may import what lies beside it
        more = "import mtlkit\nfrom cellar import Price\nrum = mtlkit.plugin(Price)\n"
        (folder / "more.py").write_text(more, encoding="utf-8")
        shown = answer("train", "run.yaml", "tasks=[colour, rum]", "--plugin", "my_wines.py", "--plugin", "more.py")
        assert list(shown["test"]) == ["colour", "rum"]

    def test_the_name_of_what_is_installed(self, acme, refused, answer, file):
        acme("colour")
        error = refused("check", "run.yaml", "tasks=[colour]", "--plugin", "my_wines.py", code=2)
        assert "acme-mtl:colour (acme-mtl 1.2) and my_wines.py:colour (my_wines.py sha256:" in error
        assert answer("check", "run.yaml", "tasks=['my_wines.py:colour']", "--plugin", "my_wines.py")


class TestInAConfiguration:
    def test_it_is_found_beside_the_configuration(self, answer, named, folder):
        first = answer("train", "project/run.yaml", TASKS)
        saved = folder / "runs/first/config.yaml"
        assert load(saved).data["plugins"]["files"] == [str(named)]
        assert answer("train", "project/run.yaml", TASKS, "--resume")["test"] == first["test"]
        assert answer("train", "runs/first/config.yaml", "--resume")["test"] == first["test"]
        assert answer("evaluate", "runs/first", "--plugin", "project/my_wines.py")["tasks"] == first["test"]

    def test_from_any_folder(self, answer, named, folder, monkeypatch):
        (folder / "elsewhere").mkdir()
        monkeypatch.chdir(folder / "elsewhere")
        given = ["../project/run.yaml", TASKS]
        assert answer("check", *given)
        assert answer("check", *given, "--plugin", "../project/my_wines.py")  # the same twice is one

    def test_a_path_that_a_run_folder_names_is_not_followed(self, answer, refused, named, folder):
        answer("train", "project/run.yaml", TASKS)
        marker = folder / "imported"
        named.write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
        sys.modules.pop("my_wines")
        assert "Give it: --plugin" in refused("evaluate", "runs/first")
        assert not marker.exists()

    def test_what_is_gone(self, refused, named):
        named.unlink()
        assert refused("check", "project/run.yaml", TASKS) == (
            f"Error: The plugin {named} cannot be read: No such file or directory.\n"
        )

    def test_what_is_no_file(self, refused):
        error = refused("check", "run.yaml", "plugins.files=[my_wines]", code=2)
        assert "at plugins.files[0] (command line: plugins.files=[my_wines])" in error

    def test_may_be_denied(self, refused, named):
        error = refused("check", "project/run.yaml", "tasks=['my_wines.py:colour']", "plugins.deny=[my_wines.py]")
        assert (
            "comes from the file 'my_wines.py', and plugins (project/run.yaml:5:10) denies my_wines.py. Take" in error
        )
        assert "my_wines" not in sys.modules


class TestThatChanged:
    @pytest.mark.filterwarnings("always:The results may not be")
    @pytest.mark.filterwarnings("always:The run may not go on")
    def test_is_told_of_with_both_hashes(self, mtlkit, folder, file, forget):
        given = ["--plugin", "my_wines.py"]
        assert mtlkit("train", "run.yaml", *given).exit_code == 0
        before = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        with file.open("a", encoding="utf-8") as text:
            text.write("# changed\n")
        after = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        (folder / "runs/first/done.json").unlink()
        difference = f"my_wines.py was sha256:{before} and is sha256:{after}."
        for process in ("same", "another"):
            evaluated = mtlkit("evaluate", "runs/first", *given)
            assert evaluated.exit_code == 0, evaluated.output
            assert evaluated.stderr == f"Warning: The results may not be those of the run: {difference}\n"
            if process == "same":
                forget()
        resumed = mtlkit("train", "run.yaml", "--resume", *given)
        assert resumed.exit_code == 0, resumed.output
        assert f"Warning: The run may not go on bit for bit: {difference}\n" in resumed.stderr


class TestThatCannotBeUsed:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("raise ValueError('no grapes')\n", "cannot be imported: ValueError: no grapes ({path}:1)."),
            ("import sys\nsys.exit('bye')\n", "cannot be imported: SystemExit: bye ({path}:2)."),
            ("wine = 1\n", "holds no plugin. Each component is a line such as: wine = mtlkit.plugin(Wine), at the top"),
        ],
    )
    @pytest.mark.parametrize("command", [["train", "run.yaml"], ["list"], ["plugins", "list"], ["evaluate", "runs/x"]])
    def test_is_refused(self, refused, folder, text, reason, command):
        path = folder / "my_wines.py"
        path.write_text(text, encoding="utf-8")
        assert f"{path} {reason.format(path=path)}" in refused(*command, "--plugin", "my_wines.py")

    def test_for_its_name_is_that_of_something_installed(self, refused, acme, folder):
        site = acme("colour")
        shutil.copy(FIXTURE, folder / "acme.py")
        assert refused("list", "--plugin", "acme.py") == (
            f"Error: {folder / 'acme.py'} cannot be imported as 'acme': that is {site / 'acme.py'} already. Give the "
            "file a name of its own.\n"
        )

    def test_for_there_are_two_of_its_name(self, refused, file, folder):
        (folder / "more").mkdir()
        shutil.copy(FIXTURE, folder / "more" / "my_wines.py")
        both = ["--plugin", "my_wines.py", "--plugin", "more/my_wines.py"]
        paths = f"{file} and {folder / 'more' / 'my_wines.py'}"
        expected = f"Error: Two plugins are files called my_wines.py: {paths}. Rename one.\n"
        assert refused("list", *both) == expected
        assert "my_wines" not in sys.modules
        assert refused("check", "run.yaml", "--plugin", "my_wines.py", "plugins.files=[more/my_wines.py]") == expected
