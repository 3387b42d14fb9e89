"""The lock of a run folder: one at a time, told who, gone with its process, not kept alive by that one's children."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from mtlkit.errors import ConfigError, StorageError
from mtlkit.locking import Lock, is_locked, last_use, single_line

PATIENCE = 30  # seconds that another process may take

HOLD = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path
from mtlkit.locking import Lock
lock = Lock.acquire(Path(sys.argv[1]))
children = []
{more}
print("held", *children, flush=True)
time.sleep(60)
"""


@pytest.fixture(name="hold")
def fixture_hold(tmp_path):
    """Return a function that starts a process which has the folder, and the children that it has."""
    started, children = [], []

    def hold(more=""):
        program = HOLD.format(more=more)
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        said, *pids = process.stdout.readline().split()
        assert said == "held"
        children.extend(map(int, pids))
        return process, [int(pid) for pid in pids]

    yield hold
    for process in started:
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


class TestOneAtATime:
    def test_the_second_process_is_told_who_has_it(self, hold, tmp_path):
        process, _ = hold()
        with pytest.raises(ConfigError, match=f"{tmp_path} is in use by process {process.pid} on") as caught:
            Lock.acquire(tmp_path)
        assert caught.value.exit_code == 2
        told = str(caught.value)
        assert re.search(r"since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00: -c ", told)
        assert f"Nothing was changed. Wait until it has ended, or stop it: kill -INT {process.pid}." in told

    def test_another_thread_or_holder_of_this_process_is_turned_away_too(self, tmp_path):
        lock = Lock.acquire(tmp_path)
        refused = []

        def try_it():
            try:
                Lock.acquire(tmp_path)
            except ConfigError as error:
                refused.append(error)

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert f"process {os.getpid()}" in str(refused[0])
        lock.release()
        Lock.acquire(tmp_path).release()

    def test_one_who_looks_is_waited_for(self, tmp_path):
        """To look whether a folder is locked, it is locked for a moment."""
        Lock.acquire(tmp_path).release("finished")
        descriptor = os.open(tmp_path / "lock.json", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        timer = threading.Timer(0.1, os.close, [descriptor])
        timer.start()
        Lock.acquire(tmp_path).release()
        timer.join()

    def test_looking_changes_nothing(self, tmp_path):
        assert not is_locked(tmp_path)
        assert last_use(tmp_path) is None
        assert not list(tmp_path.iterdir())


class TestItsEnd:
    def test_of_the_process_is_that_of_the_lock(self, hold, tmp_path):
        process, _ = hold()
        assert is_locked(tmp_path)
        process.kill()
        process.wait(PATIENCE)
        assert not is_locked(tmp_path)
        use = last_use(tmp_path)
        assert (use.pid, use.ended, use.until) == (process.pid, None, None)
        Lock.acquire(tmp_path).release()

    @pytest.mark.parametrize(
        "child",
        [
            "pid = os.fork()\nif not pid: time.sleep(60)\nchildren = [pid]",
            "p=multiprocessing.get_context('fork').Process(target=time.sleep, args=[60]);p.start()\nchildren = [p.pid]",
            "pool = multiprocessing.get_context('fork').Pool(2)\nchildren = [p.pid for p in pool._pool]",
            "children = [subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid]",
        ],
        ids=["os.fork", "Process", "Pool", "Popen"],
    )
    def test_a_child_that_lives_on_does_not_keep_it(self, hold, tmp_path, child):
        process, children = hold(child)
        assert is_locked(tmp_path)
        process.kill()
        process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while is_locked(tmp_path):  # as long as it takes a child that was just forked to let go
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert any(is_alive(each) for each in children), "no child lived on, so nothing was shown"

    def test_a_child_does_not_end_it(self, tmp_path):
        lock = Lock.acquire(tmp_path)
        context = multiprocessing.get_context("fork")
        child = context.Process(target=lock.release, args=["failed"])
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == 0
        assert is_locked(tmp_path)
        assert last_use(tmp_path).ended is None
        lock.release()
        assert not is_locked(tmp_path)

    @pytest.mark.parametrize(("ended", "error"), [("finished", None), ("failed", "PluginError: it\nbroke \x1b[31m")])
    def test_leaves_word_of_how_it_was(self, tmp_path, ended, error):
        lock = Lock.acquire(tmp_path)
        lock.release(ended, error)
        lock.release("stopped")  # which it was not
        use = last_use(tmp_path)
        assert (use.pid, use.ended) == (os.getpid(), ended)
        assert use.until >= use.since
        assert use.error == (None if error is None else "PluginError: it broke [31m")
        assert not is_locked(tmp_path)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TestOddFolders:
    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "3", '{"pid": 1}', '{"pid": "x", "host": 1}', "[" * 5000, "\x00", "9" * 9999]
    )
    def test_any_word_in_the_file_is_no_more_than_that(self, tmp_path, content):
        (tmp_path / "lock.json").write_text(content, encoding="utf-8")
        assert last_use(tmp_path) is None
        assert not is_locked(tmp_path)
        lock = Lock.acquire(tmp_path)
        assert last_use(tmp_path).pid == os.getpid()
        lock.release()

    def test_a_holder_that_is_unknown(self, tmp_path):
        (tmp_path / "lock.json").touch()
        descriptor = os.open(tmp_path / "lock.json", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="is in use by another process"):
            Lock.acquire(tmp_path)
        os.close(descriptor)

    def test_what_a_folder_says_of_its_user_commands_no_terminal(self, tmp_path):
        use = {"pid": 1, "host": "a\x1b]0;b\x07", "since": "c\r\n", "command": "d" * 999}
        (tmp_path / "lock.json").write_text(json.dumps(use), encoding="utf-8")
        said = str(last_use(tmp_path))
        assert said.isprintable()
        assert len(said) < 400

    def test_a_link_is_not_followed(self, tmp_path):
        (tmp_path / "mine").write_text("mine", encoding="utf-8")
        (tmp_path / "lock.json").symlink_to("mine")
        with pytest.raises(StorageError, match=r"Cannot lock .*lock\.json"):
            Lock.acquire(tmp_path)
        assert last_use(tmp_path) is None
        assert (tmp_path / "mine").read_text(encoding="utf-8") == "mine"

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "lock.json")
        with pytest.raises(StorageError, match=r"lock\.json is no regular file"):
            Lock.acquire(tmp_path)
        assert last_use(tmp_path) is None

    def test_no_folder(self, tmp_path):
        with pytest.raises(StorageError, match="No such file"):
            Lock.acquire(tmp_path / "nowhere")

    def test_a_file_system_without_locks_is_told_of(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("mtlkit.locking.fcntl.flock", refuse)
        with pytest.warns(UserWarning, match="has no locks .*see to it that no other process"):
            Lock.acquire(tmp_path).release()


def test_single_line():
    assert single_line(" a\n\tb\u2028c ") == "a b c"
    assert single_line("x" * 400) == "x" * 297 + "..."
