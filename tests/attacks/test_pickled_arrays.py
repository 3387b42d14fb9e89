"""Data files with pickled objects in them: neither NumPy's reader nor a Split takes one."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import mtlkit

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("mtlkit/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("examples/**/*.py")])
UNPICKLE = {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"}
UNPICKLE |= {"torch.load", "joblib.load", "dill.load", "dill.loads", "eval", "exec", "os.system"}
# Of what it made itself a line before, to see whether it can be sent to another process.
ALLOWED = {("mtlkit/testing/tasks.py", "pickle.loads")}
TASK = """
import numpy as np, torch, mtlkit
from mtlkit import tasks
class Rows(mtlkit.Source):
    def splits(self):
        columns = np.load("evil.npz")
        return {"train": mtlkit.Split(columns["x"], {"y": columns["y"]})}
class Wine(tasks.Regression):
    target = "y"
    def source(self):
        return Rows()
wine = mtlkit.plugin(Wine)
"""


@pytest.mark.parametrize("column", ["x", "y"])
def test_are_not_unpickled_for_a_source(tmp_path, command, canary, column):
    columns = {"x": np.zeros((40, 3)), "y": np.zeros(40)}
    columns[column] = np.array([canary] * 40, dtype=object)
    np.savez(tmp_path / "evil.npz", **columns)
    (tmp_path / "wine_tasks.py").write_text(TASK, encoding="utf-8")
    (tmp_path / "run.yaml").write_text("tasks: [wine]\n", encoding="utf-8")
    ended = command("check", "run.yaml", "--plugin", "wine_tasks.py")
    assert ended.code == 3
    assert "Object arrays cannot be loaded when allow_pickle=False" in ended.output


def test_are_no_column_of_a_split(canary):
    with pytest.raises(mtlkit.errors.DataError, match="of which torch makes no tensor"):
        mtlkit.Split(np.array([canary] * 4, dtype=object), {"y": np.zeros(4)})


def test_a_header_that_tells_of_more_rows_than_there_are(tmp_path, command):
    for shape in (b"(40000000, 3)", b"(-1, 3)", b"(4, 3, 10**9)", b"(2**63, 2**63)"):
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': " + shape + b", }"
        raw = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n" + bytes(960)
        (tmp_path / "evil.npy").write_bytes(raw)
        task = TASK.replace('np.load("evil.npz")', '{"x": np.load("evil.npy", mmap_mode="r"), "y": np.zeros(40)}')
        (tmp_path / "wine_tasks.py").write_text(task, encoding="utf-8")
        (tmp_path / "run.yaml").write_text("tasks: [wine]\n", encoding="utf-8")
        ended = command("check", "run.yaml", "--plugin", "wine_tasks.py")
        assert ended.code in {3, 4}, ended.output
        assert "Traceback" not in ended.output


def test_nothing_here_reads_a_pickle_or_runs_a_text():
    assert len(SOURCES) > 100
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (name, ast.unparse(node.func)) not in ALLOWED:
                assert ast.unparse(node.func) not in UNPICKLE, f"{name}:{node.lineno}"
                allows = [each.value for each in node.keywords if each.arg == "allow_pickle"]
                assert all(ast.unparse(value) == "False" for value in allows), f"{name}:{node.lineno}"
