"""What a run says of its plugins, and what is said when one is gone or another version than it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

GIT = {
    "url": "https://example.org/acme.git",
    "vcs_info": {"vcs": "git", "commit_id": "c0ffee", "requested_revision": "v1"},
}
EDITABLE = {"url": "file:///home/acme%20mtl", "dir_info": {"editable": True}}
ORIGINS = {
    "index": (None, None, "pip install acme-mtl==1.2"),
    "git": (
        GIT,
        {"url": GIT["url"], "vcs": "git", "commit": "c0ffee"},
        "pip install 'acme-mtl @ git+https://example.org/acme.git@c0ffee'",
    ),
    "editable": (EDITABLE, {"url": EDITABLE["url"], "editable": True}, "pip install -e '/home/acme mtl'"),
}


@pytest.fixture
def trained(acme, mtlkit, folder):
    """Return a function that trains a run with acme-mtl 1.2, and returns the folder that this is installed in."""

    def train(**options) -> Path:
        site = acme("colour", "price", **options)
        done = mtlkit("train", "run.yaml")
        assert done.exit_code == 0, done.output
        return site

    return train


def saved(path: Path) -> list[dict[str, object]]:
    """Return what a file says of the tasks' plugins."""
    plugins = json.loads(path.read_text(encoding="utf-8"))["plugins"]
    return [each for each in plugins if each["kind"] == "tasks"]


@pytest.mark.parametrize(("direct_url", "origin", "command"), ORIGINS.values(), ids=ORIGINS)
class TestGone:
    def test_a_run_and_each_checkpoint_name_what_took_part(self, trained, folder, direct_url, origin, command):
        trained(direct_url=direct_url)
        run = folder / "runs/first"
        expected = [
            {
                "kind": "tasks",
                "name": name,
                "distribution": "acme-mtl",
                "version": "1.2",
                "entry_point": f"acme:{name}",
                **({"origin": origin} if origin else {}),
            }
            for name in ("colour", "price")
        ]
        manifests = sorted(run.rglob("manifest.json"))
        assert [path.parent.name for path in manifests] == ["best", "step-000002", "step-000004"]
        for path in (run / "environment.json", *manifests):
            assert saved(path) == expected

    def test_it_says_how_to_bring_it_back(self, trained, uninstall, refused, folder, direct_url, origin, command):
        uninstall(trained(direct_url=direct_url))
        expected = f"Error: The run runs/first used acme-mtl 1.2, which is not installed. Bring it back: {command}\n"
        assert refused("evaluate", "runs/first") == expected
        assert refused("train", "run.yaml", "--resume") == expected
        assert refused("train", "runs/first/config.yaml", "--resume") == expected


def test_what_is_back_goes_on(trained, uninstall, acme, answer, refused):
    uninstall(trained())
    assert "not installed" in refused("evaluate", "runs/first")
    acme("colour", "price")
    assert list(answer("evaluate", "runs/first")["tasks"]) == ["colour", "price"]


@pytest.mark.filterwarnings("always:The results may not be", "always:The run may not go on")
class TestAnother:
    def check(self, mtlkit, folder, difference):
        """Check that evaluating and going on both tell of it, and do it."""
        (folder / "runs/first/done.json").unlink()
        evaluated = mtlkit("evaluate", "runs/first")
        assert evaluated.stderr == f"Warning: The results may not be those of the run: {difference}.\n"
        resumed = mtlkit("train", "run.yaml", "--resume")
        assert f"Warning: The run may not go on bit for bit: {difference}.\n" in resumed.stderr
        assert (evaluated.exit_code, resumed.exit_code) == (0, 0)

    def test_version(self, trained, uninstall, acme, mtlkit, folder):
        uninstall(trained())
        acme("colour", "price", version="1.3")
        self.check(mtlkit, folder, "acme-mtl was 1.2 and is 1.3")

    def test_commit_of_the_same_version(self, trained, uninstall, acme, mtlkit, folder):
        uninstall(trained(direct_url=GIT))
        acme("colour", "price", direct_url={**GIT, "vcs_info": {"vcs": "git", "commit_id": "decaf"}})
        self.check(mtlkit, folder, "acme-mtl was 1.2 at c0ffee and is 1.2 at decaf")

    def test_folder_of_the_same_version_is_no_difference(self, trained, uninstall, acme, mtlkit):
        uninstall(trained(direct_url=EDITABLE))
        acme("colour", "price")
        evaluated = mtlkit("evaluate", "runs/first")
        assert (evaluated.exit_code, evaluated.stderr) == (0, "")

    def test_that_refuses_this_mtlkit(self, trained, uninstall, acme, refused):
        uninstall(trained())
        acme("colour", "price", version="2.0", requires=["mtlkit>=9"])
        for arguments in (["evaluate", "runs/first"], ["train", "run.yaml", "--resume"]):
            error = refused(*arguments)
            assert "acme-mtl 2.0 requires mtlkit>=9, and this is mtlkit" in error
            assert "it was not imported. Look for a release that admits it: pip install --upgrade acme-mtl." in error

    def test_that_lacks_what_the_run_used(self, trained, uninstall, acme, refused):
        uninstall(trained())
        acme("colour", version="2.0")
        for arguments in (["evaluate", "runs/first"], ["train", "run.yaml", "--resume"]):
            assert refused(*arguments) == (
                "Error: The run runs/first used 'price' of acme-mtl 1.2, and acme-mtl 2.0 has no such component among "
                "its tasks. Bring it back: pip install acme-mtl==1.2\n"
            )

    def test_that_may_not_be_used(self, trained, refused, monkeypatch):
        trained()
        monkeypatch.setenv("MTLKIT_PLUGINS", "")
        assert "The task 'colour' is disabled (acme-mtl 1.2" in refused("evaluate", "runs/first")


class TestARunFolderOfAStranger:
    @pytest.mark.parametrize(
        "plugin",
        [
            {"distribution": "--index-url=http://example.org", "version": "1", "kind": "tasks"},
            {"distribution": "acme; rm -rf", "version": "1", "kind": "tasks"},
            {"distribution": ["acme"], "version": "1", "kind": "tasks"},
            {"distribution": "acme", "kind": "tasks"},
            {"distribution": "acme", "version": "1", "kind": "tasks", "origin": "here"},
            {"distribution": "acme", "version": "1", "kind": "tasks", "origin": {"vcs": "git"}},
            "acme",
            3,
        ],
    )
    def test_is_read_with_care(self, trained, refused, folder, plugin):
        trained()
        path = folder / "runs/first/environment.json"
        path.write_text(json.dumps({"plugins": [plugin]}), encoding="utf-8")
        error = refused("evaluate", "runs/first", code=5)
        assert "environment.json cannot be read: " in error
        assert "pip install" not in error

    def test_imports_no_file_that_it_names(self, trained, answer, folder):
        trained()
        marker, file = folder / "imported", folder / "evil.py"
        file.write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
        config = folder / "runs/first/config.yaml"
        _, _, text = config.read_text(encoding="utf-8").partition("\n")  # without its seal, which a stranger leaves out
        assert "  files: []\n" in text
        config.write_text(text.replace("  files: []\n", f"  files: [{file}]\n"), encoding="utf-8")
        assert list(answer("evaluate", "runs/first")["tasks"]) == ["colour", "price"]
        assert not marker.exists()

    def test_makes_no_more_of_a_command_than_its_arguments(self, trained, refused, folder):
        trained()
        plugin = {"distribution": "nowhere", "version": "1; rm -rf /", "kind": "tasks"}
        path = folder / "runs/first/environment.json"
        path.write_text(json.dumps({"plugins": [plugin]}), encoding="utf-8")
        assert "Bring it back: pip install 'nowhere==1; rm -rf /'\n" in refused("evaluate", "runs/first")

    def test_may_lack_it(self, trained, refused, folder):
        trained()
        (folder / "runs/first/environment.json").unlink()
        assert "environment.json: No such file" in refused("evaluate", "runs/first", code=5)
        shutil.rmtree(folder / "runs/first/best")
        assert "has no weights to evaluate yet" in refused("evaluate", "runs/first", code=5)
