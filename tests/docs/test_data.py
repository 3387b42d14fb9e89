"""The examples of docs/data.md are configurations that can be built."""

from __future__ import annotations

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


def test_there_are_examples():
    assert len(EXAMPLES) > 4
