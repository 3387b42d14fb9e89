"""A link, a pipe, a socket or a folder where a file should be: it is named, and nothing is followed or waited for."""

import os
import shutil
import socket

import pytest

CHECKPOINT = ["weights.safetensors", "state.safetensors", "state.json", "manifest.json"]


def link_to_the_same(path):
    """Lead to what the file was."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def link_to_zeros(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def link_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def listening(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)  # for a socket's path may be no longer than 108 bytes
        before = os.open(".", os.O_RDONLY)
        try:
            os.fchdir(here)
            made.bind(path.name)
        finally:
            os.fchdir(before)
            os.close(before)
            os.close(here)


def folder(path):
    path.unlink()
    path.mkdir()


KINDS = [link_to_the_same, link_to_zeros, link_to_itself, pipe, listening, folder]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", CHECKPOINT)
def test_in_the_place_of_a_file_of_the_newest_checkpoint(newest, name, kind, assert_refused):
    kind(newest / name)
    assert_refused(name, ways=("resume",))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_in_the_place_of_the_best_weights(run, kind, assert_refused):
    kind(run / "best" / "weights.safetensors")
    assert_refused("weights.safetensors", ways=("evaluate", "pretrained"))


def test_in_the_place_of_a_checkpoint(run, newest, assert_refused):
    shutil.move(newest, run.parent / "elsewhere")
    newest.symlink_to(run.parent / "elsewhere")
    assert_refused(newest.name, "symbolic link", ways=("resume",))


def test_in_the_place_of_the_folder_of_the_best_weights(run, assert_refused):
    shutil.move(run / "best", run.parent / "elsewhere")
    (run / "best").symlink_to(run.parent / "elsewhere")
    assert_refused("best", "symbolic link", ways=("evaluate", "pretrained"))


@pytest.mark.parametrize("kind", [link_to_zeros, link_to_itself, pipe, listening], ids=lambda kind: kind.__name__)
def test_as_weights_to_begin_with(run, tmp_path, kind, command):
    path = tmp_path / "weights.safetensors"
    path.touch()
    kind(path)
    ended = command("train", "run.yaml", "run.name=other", "transfer.pretrained=weights.safetensors")
    assert ended.code in {2, 5}, ended.output
    assert "weights.safetensors" in ended.output
    assert "Traceback" not in ended.output
