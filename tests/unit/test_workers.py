"""Workers: processes that are spawned make a plugin's rows for themselves, from its qualified name or a file."""

from __future__ import annotations

import copy
import functools
import pickle
import sys

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader

from mtlkit import Handle, Registry
from mtlkit.data import Rows
from mtlkit.errors import DataError

FILE = """
import mtlkit
from acme import Cellar, Colour


class Shifted(Cellar):
    '''Bottles of another cellar.'''

    def splits(self):
        return {name: mtlkit.Split(split.inputs + 10, split.targets) for name, split in super().splits().items()}


class Kept(Colour):
    '''A task that holds its source.'''

    def __init__(self, *, shelf: int = 0) -> None:
        super().__init__()
        self.kept = Shifted(self.width)
        self.missing = -100 - shelf

    def source(self):
        return self.kept


kept = mtlkit.plugin(Kept)
"""
ROWS = 40


def test_rows_of_plugins_are_made_in_spawned_workers(acme, tmp_path, forget):
    acme("colour")
    file = tmp_path / "my_cellar.py"
    file.write_text(FILE, encoding="utf-8")
    installed = Handle("tasks", "acme-mtl:colour", {"smoothing": 0.1})
    given = Handle("tasks", "my_cellar.py:kept", {"shelf": 1}, files=(str(file),))
    task = Handle("tasks", "acme-mtl:colour")()
    kept = given()
    parts = [
        Rows(installed),
        Rows(given),
        Rows(functools.partial(copy.copy, task)),
        Rows(functools.partial(copy.copy, kept)),
    ]
    for part in parts:
        len(part)  # loads its rows here, none of which travels
    assert all(len(pickle.dumps(part)) < 500 for part in parts)

    loader = DataLoader(ConcatDataset(parts), batch_size=ROWS, num_workers=2, multiprocessing_context="spawn")
    made = list(loader)
    assert len(made) == len(parts)
    for part, (inputs, targets) in zip(parts, made, strict=True):
        expected = part.make_task().source().splits()["train"]
        assert torch.equal(inputs, expected.inputs)
        assert torch.equal(targets, expected.targets["colour"])


def test_rows_that_are_read_one_by_one_are_made_too_and_a_stream_has_none(install, tmp_path, forget):
    install("acme-rows", entry_points={"tasks": {"sweetness": "acme_rows:sweetness"}}, modules=("acme_rows",))
    rows = Rows(Handle("tasks", "acme-rows:sweetness", {"rows": 7}))
    inputs, target = rows[3]
    columns = Handle("tasks", "acme-rows:sweetness", {"rows": 7, "kind": "columns"})().source().splits()["train"]
    assert len(rows) == 7
    assert torch.equal(inputs, columns.inputs[3])
    assert torch.equal(target, columns.targets["sweet"][3])
    with pytest.raises(DataError, match="The rows of 'train' come one after another, and none has an index"):
        len(Rows(Handle("tasks", "acme-rows:sweetness", {"kind": "stream"})))


def test_what_plugins_define_can_be_pickled(acme, tmp_path, forget):
    acme("colour")
    file = tmp_path / "my_cellar.py"
    file.write_text(FILE, encoding="utf-8")
    registry = Registry.discover(files=[file])
    for name in ("colour", "kept"):
        task = registry.load(registry.find("tasks", name))()
        again = pickle.loads(pickle.dumps(task))  # noqa: S301 - our own
        assert type(again) is type(task)
        assert again.source() == task.source()
        assert type(again.source()).__module__ in {"acme", "my_cellar"} & sys.modules.keys()
