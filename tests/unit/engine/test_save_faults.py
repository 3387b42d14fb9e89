"""Every file operation of a save fails, or is the last of a process that is killed: nothing that was saved is lost.

The operations are found by a run that only counts them, so that these tests grow with the code.
"""

import errno
import io
import json
import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from mtlkit.engine import checkpoint
from mtlkit.engine.run import RunFolder
from mtlkit.errors import StorageError

KILLED = 9


class Killed(BaseException):
    """The process was killed: nothing that follows has an effect."""


class Faults:
    """Stands in for the file operations, counts those below a folder, and disturbs them from one on.

    Args:
        root: The folder.
        at: The number of the operation, from 0; None to count only.
        fault: Is called in place of an operation that is to fail, and raises.
        lasts: Whether all that follow fail too.
        reads: Whether what only opens something to read it, or to sync it, fails as well.
    """

    PATHS = ("mkdir", "rename", "replace", "unlink", "rmdir", "open", "truncate")

    def __init__(self, root, at=None, fault=None, *, lasts=False, reads=False):
        self.root, self.at, self.fault, self.lasts, self.reads = str(root), at, fault, lasts, reads
        self.names = []

    @contextmanager
    def installed(self):
        with pytest.MonkeyPatch.context() as patch:
            for name in self.PATHS:
                patch.setattr(os, name, self._on_path(name, getattr(os, name)))
            patch.setattr(os, "fsync", self._counted("fsync", os.fsync))
            patch.setattr(io, "open", self._opening(io.open))
            yield self

    def meet(self, name):
        """Count an operation, and let it fail if its turn has come."""
        number = len(self.names)
        self.names.append(name)
        if self.at is None or (name == "open to read" and not self.reads):
            return
        if number == self.at or (self.lasts and number > self.at):
            self.fault()

    def _counted(self, name, really):
        def operation(*args, **kwargs):
            self.meet(name)
            return really(*args, **kwargs)

        return operation

    def _on_path(self, name, really):
        def operation(path, *args, **kwargs):
            if kwargs.get("dir_fd") is not None or str(path).startswith(self.root):
                self.meet("open to read" if name == "open" else name)
            return really(path, *args, **kwargs)

        return operation

    def _opening(self, really):
        def opening(path, mode="r", *args, **kwargs):
            if "r" in mode or not str(path).startswith(self.root):
                return really(path, mode, *args, **kwargs)
            self.meet("open")
            return Writing(really(path, mode, *args, **kwargs), self)

        return opening


class Writing:
    """A file whose writing and cutting can fail, the first in the middle."""

    def __init__(self, file, faults):
        self._file, self._faults = file, faults

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, content):
        try:
            self._faults.meet("write")
        except BaseException:
            self._file.write(content[: len(content) // 2])
            raise
        return self._file.write(content)

    def truncate(self, size):
        self._faults.meet("truncate")
        return self._file.truncate(size)


def fail(number):
    """Return what raises an OSError."""

    def raise_it():
        raise OSError(number, os.strerror(number))

    return raise_it


def kill():
    raise Killed


def interrupt():
    raise KeyboardInterrupt


FAULTS = {
    "EIO once": {"fault": fail(errno.EIO)},
    "EIO from there on": {"fault": fail(errno.EIO), "lasts": True},
    "ENOSPC once": {"fault": fail(errno.ENOSPC)},
    "ENOSPC from there on": {"fault": fail(errno.ENOSPC), "lasts": True},
    "ctrl-c": {"fault": interrupt, "reads": True},
    "killed": {"fault": kill, "lasts": True, "reads": True},
}


def model(step):
    torch.manual_seed(step)
    return nn.Linear(3, 2)


def save(run, step):
    """Save a run as the loop does, with records, weights that are the best so far, and a state."""
    run.append("metrics.jsonl", {"step": step})
    state = {"step": step, "momentum": torch.full((5,), float(step)), "records": run.records.sizes()}
    run.save(step, model(step), state, keep=2, is_best=True)


def go_on(path):
    """Go on with a run from its newest whole checkpoint, as a resumed one does, and return that one's step."""
    with RunFolder.open(path) as run:
        run.clear()
        newest, damaged = run.saves.latest()
        assert damaged == []
        state = checkpoint.load_state(newest)
        run.records.truncate(state["records"], step=state["step"])
        run.saves.keep_newest(2, state["step"])
        for step in range(state["step"] + 1, 5):
            save(run, step)
        run.finish({"steps": 4})
    return state["step"]


def tree(path):
    """Return the content of every file in a folder."""
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.fixture(autouse=True)
def fixture_quick(monkeypatch):
    """Spare the disk: no power is lost here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(name="saved")
def fixture_saved(tmp_path):
    """A run that was saved at the steps 1 and 2."""
    path = tmp_path / "saved"
    with RunFolder.create(path, config="", environment={}) as run:
        for step in (1, 2):
            save(run, step)
    (path / "lock.json").unlink(missing_ok=True)
    return path


@pytest.fixture(name="whole")
def fixture_whole(saved, tmp_path):
    """What the run leaves that nothing disturbs."""
    path = tmp_path / "whole"
    shutil.copytree(saved, path)
    assert go_on(path) == 2
    return tree(path)


def third(path):
    """Save the run at step 3."""
    with RunFolder.open(path) as run:
        save(run, 3)


def third_behind(path):
    """Save the run at step 3 in the background."""
    with RunFolder.open(path) as run:
        run.append("metrics.jsonl", {"step": 3})
        state = {"step": 3, "momentum": torch.full((5,), 3.0), "records": run.records.sizes()}
        run.save(3, model(3), state, keep=2, is_best=True, background=True)


def rest(path):
    """Go on to the end, from what a process that was killed in the middle of replacing things left."""
    (path / "best").rename(path / ".best.old")
    shutil.copytree(path / ".best.old", path / ".best.tmp")
    shutil.copytree(path / ".best.old", path / "checkpoints" / ".step-000003.tmp")
    (path / ".done.json.tmp").write_text("{", encoding="utf-8")
    return go_on


def prepare(saved, path, scenario):
    """Copy the run that was saved, and return what is to be disturbed."""
    shutil.copytree(saved, path)
    return scenario(path) if scenario is rest else scenario


def count(saved, path, scenario):
    """Return the operations of what is to be disturbed."""
    action = prepare(saved, path, scenario)
    with Faults(path).installed() as faults:
        action(path)
    return faults.names


def check(path, whole, *, made_room=False):
    """Check that the run was not lost: its newest checkpoint is whole, and it goes on to the same end.

    Where it `made_room`, it may have given up the checkpoint before the last.
    """
    found, damaged = RunFolder.open(path).saves.latest()
    assert found.name in {"step-000002", "step-000003", "step-000004"}
    assert damaged == []
    go_on(path)
    if made_room and not (path / "checkpoints" / "step-000003").exists():
        whole = {name: content for name, content in whole.items() if "step-000003" not in name}
    assert tree(path) == whole


@pytest.mark.parametrize("scenario", [third, third_behind, rest], ids=["a save", "one behind", "going on"])
class TestEveryOperation:
    def test_is_known(self, saved, tmp_path, scenario):
        names = count(saved, tmp_path / "counted", scenario)
        assert {"open", "write", "fsync", "mkdir", "rename", "unlink", "rmdir", "open to read"} <= set(names)
        assert len(names) > 40

    @pytest.mark.parametrize("kind", FAULTS)
    @pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
    def test_may_fail(self, saved, whole, tmp_path, scenario, kind, every):
        names = count(saved, tmp_path / "counted", scenario)
        n_errors = 0
        first = list(FAULTS).index(kind) % every  # so that the quick form lets almost every one fail in some way
        numbers = range(first, len(names), every)
        for number in numbers:
            name = names[number]
            path = tmp_path / f"{number}-{name}"
            action = prepare(saved, path, scenario)
            with Faults(path, number, **FAULTS[kind]).installed(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a checkpoint made room for a newer one
                try:
                    action(path)
                except (StorageError, Killed, KeyboardInterrupt):
                    n_errors += 1
            check(path, whole, made_room="ENOSPC" in kind)
        if not kind.endswith("once"):
            assert n_errors > len(numbers) // 2
        elif scenario is not rest:
            assert n_errors == 0  # it is tried again

    @pytest.mark.slow
    def test_may_be_the_last_of_a_process(self, saved, whole, tmp_path, scenario):
        names = count(saved, tmp_path / "counted", scenario)
        for number, name in enumerate(names):
            path = tmp_path / f"{number}-{name}"
            action = prepare(saved, path, scenario)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # from Python 3.12 on: there are other threads, which the child has not
                child = os.fork()
            if not child:
                try:
                    with Faults(path, number, lambda: os._exit(KILLED), reads=True).installed():
                        action(path)
                finally:
                    os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
            check(path, whole)


class TestOrder:
    """What a machine that loses its power would find."""

    def test_is_that_everything_is_on_the_disk_before_what_counts_on_it(self, saved, monkeypatch):
        synced, named = set(), []
        saved = saved.resolve()

        def fsync(descriptor):
            synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())

        def rename(source, target, *, really=os.rename):
            source, target = Path(source).resolve(), Path(target).resolve()
            named.append((source.name, target.name))
            if source.name.endswith(".tmp"):  # what is new takes its place
                assert {source, *source.iterdir(), saved / "metrics.jsonl"} <= synced
                synced.discard(target.parent)
            elif target.name.endswith(".tmp"):  # what is old goes
                assert {saved, saved / "checkpoints"} <= synced
                assert checkpoint.verify(saved / "checkpoints" / "step-000003") == 3
            return really(source, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "rename", rename)
        third(saved)
        assert named == [
            ("best", ".best.old"),
            (".best.tmp", "best"),
            (".step-000003.tmp", "step-000003"),
            ("step-000001", ".step-000001.tmp"),
        ]


class TestRecords:
    def test_that_were_removed_are_missed_at_the_next_save(self, saved):
        with RunFolder.open(saved) as run:
            run.append("metrics.jsonl", {"step": 3})
            (saved / "metrics.jsonl").unlink()
            with pytest.raises(StorageError, match=r"It was removed while the run wrote to it \(.*metrics\.jsonl\)"):
                run.save(3, model(3), {}, keep=2)
        assert RunFolder.open(saved).saves.latest()[0].name == "step-000002"

    @pytest.mark.parametrize("fault", [fail(errno.ENOSPC), interrupt])
    def test_are_wholly_there_or_not_at_all(self, saved, fault):
        before = (saved / "metrics.jsonl").read_bytes()
        with RunFolder.open(saved) as run, Faults(saved, None, fault, lasts=True).installed() as faults:
            run.append("metrics.jsonl", {"step": 3})
            faults.at = len(faults.names)
            faults.meet = lambda name, really=faults.meet: None if name == "truncate" else really(name)
            with pytest.raises((StorageError, KeyboardInterrupt)):
                run.append("metrics.jsonl", {"step": 4})
        assert (saved / "metrics.jsonl").read_bytes() == before + json.dumps({"step": 3}).encode() + b"\n"


class TestKeeping:
    def test_drops_later_checkpoints_that_a_run_fell_back_from(self, saved):
        """With one to keep, it would else be the damaged one."""
        with RunFolder.open(saved) as run:
            save(run, 6)
            damaged = saved / "checkpoints" / "step-000006" / "weights.safetensors"
            damaged.write_bytes(damaged.read_bytes()[:-1])
            assert run.saves.latest()[0].name == "step-000002"
            run.save(3, model(3), {}, keep=1)
            assert [path.name for path in (saved / "checkpoints").iterdir()] == ["step-000003"]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_makes_room_where_the_disk_is_full_and_says_so(self, saved, number):
        with RunFolder.open(saved) as run:
            save(run, 3)
            with Faults(saved, 6, fail(number)).installed():
                run.save(4, model(4), {}, keep=9)
            with pytest.warns(UserWarning, match=r"step-000002 was removed to make room for a newer checkpoint"):
                run.written()
        kept = sorted(path.name for path in (saved / "checkpoints").iterdir())
        assert kept == ["step-000003", "step-000004"]

    @pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EFBIG])
    def test_drops_none_where_room_is_not_what_is_wanting(self, saved, number):
        faults = Faults(saved, 6, fail(number), lasts=True)
        with (
            RunFolder.open(saved) as run,
            faults.installed(),
            pytest.raises(StorageError, match=r"step-000002 is whole"),
        ):
            run.save(3, model(3), {}, keep=1)
        kept = sorted(path.name for path in (saved / "checkpoints").glob("step-*"))
        assert kept == ["step-000001", "step-000002"]
