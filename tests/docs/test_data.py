"""The examples of docs/data.md are configurations that can be built, and code that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import mtlkit
from mtlkit.yamlfile import parse

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_can_be_built(text):
    tasks = {} if text.startswith("tasks:") else {"tasks": ["digit", "rotation", "denoise"]}
    experiment = mtlkit.build({"encoder": {"name": "mlp", "layers": [4]}, **tasks, **parse(text, "data.md").data})
    assert experiment.plan.steps > 0


def test_the_code_of_sources_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"measured": [n / 2, 1.0], "cultivar": n % 3} for n in range(30)]
    (tmp_path / "wines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    names = {}
    exec(compile(code, "data.md", "exec"), names)  # noqa: S102 - it is what is under test
    made = names["MadeRows"]().splits()["train"]
    assert made[3].inputs[""].shape == (64,)
    assert made[3].targets["pitch"].item() == pytest.approx(0.03)
    lines = names["Lines"]().splits()["train"]
    assert [targets["cultivar"] for _, targets in lines.rows_from(28)] == [1, 2]


def test_there_are_examples():
    assert len(EXAMPLES) > 4
