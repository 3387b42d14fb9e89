"""A small archive that unpacks to more than there is room for, in the place of a file: nothing unpacks it."""

import gzip
import io
import os
import tarfile
import zipfile

import pytest

LARGE = 200_000_000


def zip_bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights.safetensors", bytes(LARGE))
        archive.writestr("../../canary", b"out of the folder")
    return buffer.getvalue()


def tar_bomb():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo("../../canary")
        entry.size = LARGE
        archive.addfile(entry, io.BytesIO(bytes(LARGE)))
    return buffer.getvalue()


@pytest.fixture(name="bomb", scope="module", params=["zip", "tar", "gzip"])
def fixture_bomb(request):
    """A few hundred kilobytes that unpack to 200 MB."""
    made = {"zip": zip_bomb, "tar": tar_bomb, "gzip": lambda: gzip.compress(bytes(LARGE), 1)}[request.param]()
    assert len(made) < LARGE / 100
    return made


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"])
def test_in_the_place_of_a_file_of_the_newest_checkpoint(newest, name, bomb, reseal, assert_refused):
    (newest / name).write_bytes(bomb)
    if name != "manifest.json":
        reseal(newest)
    assert_refused(name, ways=("resume",))


@pytest.mark.usefixtures("canary")
@pytest.mark.parametrize("name", ["weights.safetensors", "manifest.json"])
def test_in_the_place_of_the_best_weights(run, name, bomb, reseal, assert_refused):
    (run / "best" / name).write_bytes(bomb)
    if name != "manifest.json":
        reseal(run / "best")
    assert_refused(name, ways=("evaluate", "pretrained"))


@pytest.mark.usefixtures("canary")
def test_as_weights_to_begin_with(tmp_path, run, bomb, command):
    (tmp_path / "weights.safetensors").write_bytes(bomb)
    ended = command("train", "run.yaml", "run.name=other", "transfer.pretrained=weights.safetensors")
    assert ended.code == 5
    assert "weights.safetensors cannot be read as a file of safetensors" in ended.output


@pytest.mark.parametrize("vouched", [True, False], ids=["vouched for", "not vouched for"])
@pytest.mark.parametrize("name", ["weights.safetensors", "state.safetensors", "state.json"])
def test_a_file_of_holes_that_is_larger_than_all_memory(newest, name, vouched, change_manifest, assert_refused):
    """A sparse file takes no room on a disk or in a tar, and it would take an hour to read."""
    os.truncate(newest / name, 1 << 42)

    def vouch(manifest):
        entry = {**manifest["files"][name], "bytes": 1 << 42}
        return {**manifest, "files": {**manifest["files"], name: entry}}

    if vouched:
        change_manifest(newest, vouch)
    assert_refused(name, ways=("resume",))


def test_weights_of_holes_to_begin_with(tmp_path, run, command):
    (tmp_path / "weights.safetensors").touch()
    os.truncate(tmp_path / "weights.safetensors", 1 << 42)
    ended = command("train", "run.yaml", "run.name=other", "transfer.pretrained=weights.safetensors")
    assert ended.code == 5
    assert "weights.safetensors has 4398046511104 bytes, and this process may have" in ended.output
