"""An import path where the name of a component should be: names lead through what is installed, and nowhere else."""

import json

import pytest

PATHS = ["os:system", "os.system", "mtlkit.app:train", "stranger:run", "../stranger.py"]
FEW = ["os:system", "stranger", "../stranger.py"]


@pytest.fixture(autouse=True)
def fixture_stranger(tmp_path, run, canary):
    """A module in the current folder and in the run, which sings when it is imported."""
    for folder in (tmp_path, run, run / "best"):
        (folder / "stranger.py").write_text(f"open({str(canary.path)!r}, 'w').close()\n", encoding="utf-8")


def replace(path, *pairs):
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "setting", ["name: golden-tasks:side", "name: mtlkit:mlp", "name: mtlkit:gradnorm", "name: mtlkit:hard-sharing"]
)
def test_in_the_configuration_of_the_run(run, setting, path, assert_refused):
    replace(run / "config.yaml", (setting, f"name: {json.dumps(path)}"))
    code = 3 if ":" in path else 2  # what is before a colon is a distribution, and none of this name is installed
    assert_refused(path, code=code, ways=("evaluate",))


@pytest.mark.parametrize("path", ["adam.os", "os:system", "mtlkit.app", "__import__('os').system"])
def test_in_the_place_of_an_optimizer(run, path, assert_refused):
    replace(run / "config.yaml", ("  name: adam\n", f"  name: {json.dumps(path)}\n"))
    assert_refused("optimizer", code=2, ways=("evaluate",))


@pytest.mark.parametrize("where", ["stranger.py", "runs/run/stranger.py", "best/stranger.py"])
def test_a_file_of_plugins_that_the_configuration_of_the_run_names_is_not_read(run, tmp_path, where, command):
    replace(run / "config.yaml", ("  files: []\n", f"  files: [{tmp_path / where}]\n"))
    ended = command("evaluate", run)
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("path", FEW)
def test_in_what_a_checkpoint_says_of_plugins_is_not_looked_up(run, newest, path, change_manifest, command):
    forged = dict.fromkeys(["kind", "name", "distribution", "version", "entry_point"], path)
    for folder in (run / "best", newest):
        change_manifest(folder, lambda manifest: {**manifest, "plugins": [forged]})
    assert command("evaluate", run).code == 0
    assert command("train", "run.yaml", "--resume").code == 0


@pytest.mark.parametrize("path", FEW)
def test_in_what_the_run_says_of_plugins(run, path, command):
    """What the entry point was is for people; a distribution that is not installed, or no name of one, is named."""
    file = run / "environment.json"
    environment = json.loads(file.read_text(encoding="utf-8"))
    plugins = environment["plugins"]
    file.write_text(
        json.dumps(environment | {"plugins": [{**p, "entry_point": path} for p in plugins]}), encoding="utf-8"
    )
    assert command("evaluate", run).code == 0
    for key, codes in {"distribution": {3, 5}, "name": {3}}.items():
        changed = [{**plugin, key: path} for plugin in plugins]
        file.write_text(json.dumps(environment | {"plugins": changed}), encoding="utf-8")
        ended = command("evaluate", run)
        assert ended.code in codes, ended.output
        assert "Traceback" not in ended.output
