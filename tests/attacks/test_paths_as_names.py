"""Names that lead out of the folder they are meant for: of runs, of a new plugin, of files in a run's folder."""

from __future__ import annotations

import shutil

import pytest

NAMES = [
    "..",
    ".",
    "../up",
    "a/../../up",
    "/up",
    "a\\..\\up",
    "up\0",
    "",
    "nul",
    "CON.txt",
    "a/b",
    "x" * 81,
    "-",
    "é",
]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "-"])
def test_of_a_run_is_refused_where_it_stands(run, tmp_path, command, name):
    before = sorted(tmp_path.rglob("*"))
    text = (tmp_path / "run.yaml").read_text(encoding="utf-8")
    quoted = '"' + name.replace("\\", "\\\\").replace("\0", "\\0") + '"'
    (tmp_path / "evil.yaml").write_text(text.replace("  name: run\n", f"  name: {quoted}\n", 1), encoding="utf-8")
    ended = command("train", "evil.yaml")
    assert ended.code == 2
    assert "run.name (evil.yaml:2:9)" in ended.output
    (tmp_path / "evil.yaml").unlink()
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "output.txt") == before


@pytest.mark.parametrize("name", ["..", "../up", "/up", "a/b", "-r", "a b", "", "."])
def test_of_a_new_plugin_is_refused(tmp_path, command, name):
    ended = command("plugins", "new", "--", name)
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]


def test_of_a_component_of_a_new_plugin_is_refused(tmp_path, command):
    ended = command("plugins", "new", "acme-mtl", "--component", "../../up")
    assert ended.code == 2, ended.output
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "done.json", "metrics.jsonl"])
def test_a_link_in_a_run_folder_is_not_followed(run, tmp_path, command, name):
    outside = tmp_path / "outside.txt"
    outside.write_text("{}", encoding="utf-8")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    for ended in (command("evaluate", run), command("train", "run.yaml", "--resume")):
        assert ended.code == 5
        assert "symbolic link" in ended.output
    assert outside.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("name", ["../../elsewhere", "elsewhere"])
def test_a_run_folder_that_says_it_is_elsewhere_stays_where_it_is(run, tmp_path, command, name):
    path = run / "config.yaml"
    text = path.read_text(encoding="utf-8").replace("  name: run\n", f"  name: {name}\n", 1)
    path.write_text(text.replace(f"  dir: {tmp_path}/runs", f"  dir: {tmp_path}/elsewhere"), encoding="utf-8")
    ended = command("resume", run)
    assert ended.code in {0, 2, 5}, ended.output
    assert "Traceback" not in ended.output
    assert sorted(each.name for each in tmp_path.iterdir()) == ["output.txt", "run.yaml", "runs"]
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["run"]


@pytest.mark.parametrize("name", [".step-000004.tmp", ".step-000006.old", "step-000004", ".config.yaml.tmp"])
def test_to_clean_a_run_removes_nothing_that_a_link_leads_to(run, tmp_path, command, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine", encoding="utf-8")
    place = run / "checkpoints" / name if "step" in name else run / name
    if place.is_dir():
        shutil.rmtree(place)
    place.symlink_to(outside)
    ended = command("runs", "clean", "--yes", "--damaged", "--finished")
    assert ended.code in {0, 5}, ended.output
    assert (outside / "thesis.txt").read_text(encoding="utf-8") == "mine"
