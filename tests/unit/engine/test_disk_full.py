"""A run whose disk is full, too small, not to be written to, or gone: it says what it takes, and goes on as before."""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys

import pytest

from mtlkit.engine import events
from mtlkit.engine.run import RunFolder
from mtlkit.errors import StorageError

# With weights of some 20 kB, and records of less.
RUN = {
    "encoder": {"name": "mlp", "layers": [64, 64], "dropout": 0.3},
    "training": {"steps": 14, "log_every": 3},
}


def once_saved(do, *, step=4):
    """Return a listener that does something once the checkpoint of a step is written."""

    def listen(event):
        if isinstance(event, events.CheckpointWritten) and event.step == step:
            do()

    return listen


def outcome(folder):
    """Return what must not depend on what happened to the disk."""
    paths = [folder / "metrics.jsonl", folder / "done.json", *(folder / "best").iterdir()]
    paths += (folder / "checkpoints" / "step-000014").iterdir()
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(name="whole")
def fixture_whole(train):
    """What a run leaves that nothing hinders."""
    return outcome(train(run={"name": "whole"}, **RUN).folder)


@pytest.fixture(name="limit_files")
def fixture_limit_files():
    """Return a function that limits how large a file this process can write, and one that takes it back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    def lift():
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    yield limit, lift
    lift()


@pytest.fixture(name="small_disk")
def fixture_small_disk(tmp_path):
    """A disk of 400 kB, and a function that fills it up but for so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")

    def fill(free=0):
        with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        if free:
            os.truncate(place / "filler", (place / "filler").stat().st_size - free)

    yield place, fill
    subprocess.run(["umount", str(place)], check=True)  # noqa: S607 - as the system has it


def is_lost(caught, folder, *, saved="step-000004"):
    """Check an error, and that the earlier checkpoint is whole and nothing half written is beside it."""
    assert caught.value.exit_code == 7
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(f"then go on with: mtlkit resume {folder}")
    newest, damaged = RunFolder.open(folder).saves.latest()
    assert (newest.name, damaged) == (saved, [])
    assert f"The checkpoint {newest} is whole." in message
    left = [path.name for path in [*folder.iterdir(), *(folder / "checkpoints").iterdir()]]
    assert not [name for name in left if name.startswith(".")]
    for line in (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True):
        assert line.endswith(b"}\n")


@pytest.mark.parametrize("background", [True, False])
class TestLimit:
    """RLIMIT_FSIZE, whose signal Python ignores, so that it is an error like others."""

    @pytest.mark.parametrize(
        ("size", "doing"),
        [(100, "(write a record|save the run at step 8)"), (15_000, "save the run at step 8")],
        ids=["records", "weights"],
    )
    def test_is_told_and_the_run_goes_on_without_it(self, train, whole, limit_files, tmp_path, size, doing, background):
        limit, lift = limit_files
        settings = {**RUN, "checkpoints": {"background": background}}
        with pytest.raises(StorageError, match=rf"Cannot {doing}: File too large.*Allow larger files") as caught:
            train(listeners=[once_saved(lambda: limit(size))], **settings)
        lift()
        is_lost(caught, tmp_path / "toy")
        assert outcome(train(resume=True, **settings).folder) == whole


@pytest.mark.parametrize("background", [True, False])
class TestFullDisk:
    def test_is_told_and_the_run_goes_on_once_there_is_room(self, train, whole, small_disk, background):
        place, fill = small_disk
        settings = {**RUN, "run": {"dir": str(place)}, "checkpoints": {"background": background, "keep": 1}}
        with pytest.raises(StorageError, match="Make room there, then go on with") as caught:
            train(listeners=[once_saved(fill)], **settings)
        needed, free = re.search(r"It takes ([\d.]+ \w+), and ([\d.]+ \w+) are free", str(caught.value)).groups()
        assert needed.endswith(("kB", "bytes"))
        assert float(free.split()[0]) < 10 or free.endswith("bytes")
        is_lost(caught, place / "toy")
        (place / "filler").unlink()
        assert outcome(train(resume=True, **settings).folder) == whole

    def test_is_given_room_by_older_checkpoints(self, train, whole, small_disk, background):
        place, fill = small_disk
        settings = {**RUN, "run": {"dir": str(place)}, "checkpoints": {"background": background, "keep": 9}}
        with pytest.warns(UserWarning, match=r"step-00000\d was removed to make room for a newer checkpoint"):
            run = train(listeners=[once_saved(lambda: fill(free=40_960), step=8)], **settings)
        assert outcome(run.folder) == whole
        kept = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
        assert kept[-1] == "step-000014"
        assert "step-000004" not in kept

    def test_at_the_very_end_leaves_only_the_end_to_be_made_again(self, train, whole, small_disk, background):
        place, fill = small_disk
        settings = {**RUN, "run": {"dir": str(place)}, "checkpoints": {"background": background, "keep": 1}}

        def listen(event):
            if isinstance(event, events.EvaluationFinished) and event.split == "test":
                fill()

        with pytest.raises(StorageError, match=r"Cannot write the results: No space left on device") as caught:
            train(listeners=[listen], **settings)
        is_lost(caught, place / "toy", saved="step-000014")
        (place / "filler").unlink()
        assert outcome(train(resume=True, **settings).folder) == whole


class TestFolder:
    @pytest.fixture(name="shut")
    def fixture_shut(self, tmp_path):
        """Return a function that lets nothing be made in the folder of checkpoints, and one that takes it back."""
        folder = tmp_path / "toy" / "checkpoints"
        shut, reopen = ["chmod", "a-w"], ["chmod", "u+w"]
        if os.geteuid() == 0:  # whom permissions do not keep from anything
            shut, reopen = ["chattr", "+i"], ["chattr", "-i"]

        def change(command):
            try:
                subprocess.run([*command, str(folder)], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                pytest.skip("no folder can be shut here")

        yield lambda: change(shut), lambda: change(reopen)
        if folder.exists():
            change(reopen)

    def test_that_is_shut_is_told(self, train, whole, shut, tmp_path):
        close, reopen = shut
        with pytest.raises(StorageError, match="Make it writable, then go on with") as caught:
            train(listeners=[once_saved(close)], **RUN)
        is_lost(caught, tmp_path / "toy")
        reopen()
        assert outcome(train(resume=True, **RUN).folder) == whole

    def test_of_the_run_that_is_gone_is_told_and_not_made_again(self, train, whole, tmp_path):
        folder = tmp_path / "toy"
        with pytest.raises(StorageError, match="The run's folder is gone, with all that was in it") as caught:
            train(listeners=[once_saved(lambda: shutil.rmtree(folder))], **RUN)
        assert caught.value.exit_code == 7
        assert not folder.exists()
        assert outcome(train(**RUN).folder) == whole

    def test_of_the_run_that_was_moved_goes_on_where_it_is(self, train, whole, tmp_path):
        moved = tmp_path / "moved"
        with pytest.raises(StorageError, match="put it back, or start the run again"):
            train(listeners=[once_saved(lambda: (tmp_path / "toy").rename(moved))], **RUN)
        assert RunFolder.open(moved).saves.latest()[0].name == "step-000004"
        assert outcome(train(run={"name": "moved"}, resume=True, **RUN).folder) == whole

    def test_of_checkpoints_that_is_gone_is_made_again(self, train, whole, tmp_path):
        folder = tmp_path / "toy" / "checkpoints"
        run = train(listeners=[once_saved(lambda: shutil.rmtree(folder))], **RUN)
        assert outcome(run.folder) == whole


@pytest.mark.slow
def test_a_process_whose_files_are_limited_says_so_and_exits_with_7(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "tasks: [digit]\nencoder: {name: mlp, layers: [64]}\ntraining: {steps: 6, steps_per_epoch: 2, device: cpu}\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "mtlkit", "train", "run.yaml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done
    assert done.stderr.count("Error: Cannot save the run at step 2: File too large") == 1
    assert "The run has no checkpoint yet." in done.stderr
    assert "Traceback" not in done.stderr
