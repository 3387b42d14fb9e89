"""A manifest that names files by paths, or files that a checkpoint does not have: none is opened or looked for."""

import pytest

NAMES = [
    *("../outside", "../../../outside", "/etc/passwd", "/dev/zero", "a/b", "./weights.safetensors", "..", ".", ""),
    *(
        "weights.safetensors/",
        "WEIGHTS.safetensors",
        "weights.safetensors\x00",
        "C:\\outside",
        "..\\outside",
        "~/outside",
    ),
    *("manifest.json", "config.yaml", "optimizer.pt", "$(touch canary)", "\x1b]0;title\x07", "x" * 5000),
]


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_is_refused(run, name, change_manifest, assert_refused):
    (run / "outside").write_text("x", encoding="utf-8")
    entry = {"bytes": 1, "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
    change_manifest(run / "best", lambda manifest: {**manifest, "files": {**manifest["files"], name: entry}})
    assert_refused("manifest.json", "names the file", ways=("evaluate",))


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_is_refused_by_every_way(run, newest, name, change_manifest, assert_refused):
    entry = {"bytes": 1, "sha256": "0" * 64}
    for folder in (run / "best", newest):
        change_manifest(folder, lambda manifest: {**manifest, "files": {**manifest["files"], name: entry}})
    assert_refused("manifest.json", "names the file")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_is_refused_in_the_first_schema(run, name, assert_refused):
    text = '{"schema_version": 1, "step": 1, "plugins": [], "sha256": {"weights.safetensors": "%s", "%s": "%s"}}'
    (run / "best" / "manifest.json").write_text(text % ("0" * 64, name, "0" * 64), encoding="utf-8")
    assert_refused("manifest.json", "names the file", ways=("evaluate", "pretrained"))
