"""Worker processes that break in any way: an error in time that names the row, and no process that is left."""

from __future__ import annotations

import faulthandler
import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from mtlkit.data import MapSplit, Order, StreamSplit
from mtlkit.data.loading import stream_of
from mtlkit.errors import DataError


class Breaking:
    """Rows, of which one does something else; each tells in a folder which process read it."""

    def __init__(self, folder, at, act):
        self.folder, self.at, self.act = folder, at, act

    def __len__(self):
        return 40

    def __getitem__(self, index):
        (self.folder / str(os.getpid())).touch()
        if index == self.at:
            self.act()
        return torch.tensor([float(index)]), {"n": index}


def end_by(signal_number):
    faulthandler.disable()  # pytest's, which would tell of it
    os.kill(os.getpid(), signal_number)
    time.sleep(60)


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it cannot be asked to end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)


def stop():
    raise SystemExit(3)


def fail():
    raise RuntimeError("the label came off.")


FAULTS = {
    "is killed": (lambda: end_by(signal.SIGKILL), r"A worker process was killed by SIGKILL while reading row 17"),
    "crashes": (lambda: end_by(signal.SIGSEGV), r"A worker process was killed by SIGSEGV while reading row 17"),
    "exits": (lambda: os._exit(3), r"A worker process ended with status 3 while reading row 17"),
    "exits as if all were well": (lambda: os._exit(0), r"A worker process ended with status 0 while reading row 17"),
    "raises": (fail, r"Row 17 of 'train' raised RuntimeError: the label came off\.$"),
    "is told to exit": (stop, r"Row 17 of 'train' raised SystemExit: 3\.$"),
    "hangs": (hang, r"A worker process was still reading row 17 of 'train' after 0\.7 s, which is loading\.timeout\.$"),
}


def split_of(kind, folder, at, act):
    rows = Breaking(folder, at, act)
    if kind == "rows":
        return MapSplit(rows)
    return StreamSplit(lambda start: (rows[index] for index in range(start, len(rows))), length=len(rows))


def training(reader):
    return stream_of(reader, lambda n: Order(n, seed=0), batch_size=4)


def drain(stream):
    for _ in range(10):
        stream.next()


def is_gone(pid):
    try:
        os.kill(pid, 0)  # a zombie would still be there
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("kind", ["rows", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_that_breaks_is_an_error_that_names_source_and_row(tmp_path, open_all, capfd, fault, kind):
    act, said = FAULTS[fault]
    reader = open_all({"train": split_of(kind, tmp_path, 17, act)}, workers=2, timeout=0.7)["train"]
    stream = training(reader)
    started = time.monotonic()
    with pytest.raises(DataError, match=rf"^The rows of task 'n' \(a test\) cannot be read\. {said}") as raised:
        drain(stream)
    assert raised.value.exit_code == 4
    assert time.monotonic() - started < 20  # of which most is for a machine that is busy
    readers = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    assert readers
    assert all(map(is_gone, readers))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_what_is_only_read_ahead_breaks_nothing(tmp_path, open_all, kind):
    at = Order(40, seed=0).rows(12, 1).item() if kind == "rows" else 12
    stream = training(open_all({"train": split_of(kind, tmp_path, at, fail)}, workers=1)["train"])
    for _ in range(3):
        stream.next()
    stream.close()
    stream.restore({"position": 16} if kind == "rows" else {"pass": 0, "row": 16, "drawn": 0})
    stream.next()


def test_a_worker_that_died_while_nothing_was_asked_of_it_is_missed_at_the_next_batch(tmp_path, open_all):
    stream = training(open_all({"train": split_of("rows", tmp_path, -1, fail)}, workers=1)["train"])
    stream.next()
    (pid,) = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DataError, match="A worker process was killed by SIGKILL while"):
        drain(stream)
    assert is_gone(pid)


def test_workers_that_cannot_be_started_are_an_error(tmp_path, open_all):
    splits = {"train": split_of("rows", tmp_path, -1, fail)}
    stream = training(open_all(splits, workers=1, start="spawn", load=lambda: splits)["train"])
    with pytest.raises(DataError, match=r"cannot be read\. Worker processes cannot be started: raised .*pickle"):
        stream.next()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (os.getcwd, "A worker process could not load the source: raised AttributeError: 'str' object has no attribute"),
        (os.abort, "A worker process was killed by SIGABRT while loading the source"),
        (functools.partial(os._exit, 4), "A worker process ended with status 4 while loading the source"),
        (dict, r"loaded other splits than the run has, of no rows in place of 40 \(train\): a source gives the same"),
    ],
)
@pytest.mark.slow
def test_workers_that_load_something_else_are_an_error(tmp_path, open_all, load, said):
    splits = {"train": split_of("rows", tmp_path, -1, fail)}
    stream = training(open_all(splits, workers=1, start="spawn", load=load)["train"])
    with pytest.raises(DataError, match=said) as raised:
        stream.next()
    assert "With 'fork', it has what the run has" in str(raised.value) or load in {os.abort, dict}
    assert not multiprocessing.active_children()


def test_workers_may_be_started_from_a_thread(tmp_path, open_all):
    stream = training(open_all({"train": split_of("rows", tmp_path, -1, fail)}, workers=2)["train"])
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(drain(stream)))
    thread.start()
    thread.join(30)
    stream.close()
    assert drawn == [None]


def test_workers_pass_over_what_stops_the_run(tmp_path, open_all):
    stream = training(open_all({"train": split_of("rows", tmp_path, -1, fail)}, workers=2)["train"])
    stream.next()
    pids = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    drain(stream)
    stream.close()
    assert all(map(is_gone, pids))


def test_closing_ends_all_processes_at_once_even_where_several_sources_fork(tmp_path, open_all):
    splits = [{"train": split_of("rows", tmp_path, -1, fail)} for _ in range(3)]
    streams = [training(open_all(each, workers=2)["train"]) for each in splits]
    for stream in streams:
        stream.next()
    pids = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    assert len(pids) >= 3
    started = time.monotonic()
    for stream in streams:
        stream.close()
    assert time.monotonic() - started < 1.5  # or one had to be killed
    assert all(map(is_gone, pids))
    assert not multiprocessing.active_children()


def test_workers_that_are_forgotten_end(tmp_path, open_all):
    stream = training(open_all({"train": split_of("rows", tmp_path, -1, fail)}, workers=1)["train"])
    stream.next()
    (pid,) = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    assert not is_gone(pid)
    open_all.opened.clear()
    del stream
    gc.collect()
    assert is_gone(pid)


PROGRAM = """
import os, pathlib, sys, time
import torch
from mtlkit.data import MapSplit, Order
from mtlkit.data.delivery import Delivery
from mtlkit.data.loading import opened, stream_of
from mtlkit.data.settings import Loading

class Rows:
    def __len__(self):
        return 40
    def __getitem__(self, index):
        pathlib.Path(sys.argv[1], str(os.getpid())).touch()
        if index == 30 and sys.argv[2] == "hangs":
            time.sleep(600)
        return torch.zeros(1), {}

splits = {"train": MapSplit(Rows())}
loading = Loading(memory=0, workers=2, start="fork", prefetch=2, timeout=60)
delivery = Delivery(torch.device("cpu"), torch.float32)
readers = opened(
    splits, load=lambda: splits, loading=loading, delivery=delivery, batch_size=4, seed=0, source="The rows"
)
stream = stream_of(readers["train"], lambda n: Order(n, seed=0), batch_size=4)
stream.next()
print("reading", flush=True)
if sys.argv[2] == "hangs":
    time.sleep(600)
"""


@pytest.mark.parametrize("end", ["returns", "hangs"])
def test_no_process_outlives_the_run_however_it_ends(tmp_path, end):
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), end], stdout=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "reading\n"
    if end == "hangs":
        program.kill()  # the run hears of nothing, and neither do its workers
    program.communicate(timeout=30)
    pids = [int(path.name) for path in tmp_path.iterdir() if int(path.name) != program.pid]
    assert pids
    until = time.monotonic() + 20
    while not all(map(is_gone, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    left = [pid for pid in pids if not is_gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []
    assert program.returncode == (-signal.SIGKILL if end == "hangs" else 0)
