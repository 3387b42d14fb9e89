"""``mtlkit check`` looks at the data: findings with what to do, JSON, and its exit code."""

from __future__ import annotations

import json
import textwrap

import pytest

SPOILT = """
    import mtlkit, torch
    from mtlkit import tasks

    class Rows(mtlkit.Source):
        def splits(self):
            points = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
            points[3] = {value}
            return {{"train": mtlkit.Split(points, {{"kind": (points[:, 0] > 0).long()}})}}

    class Kind(tasks.Classification):
        "Which of two."
        target, n_classes = "kind", 2
        def source(self):
            return Rows()

    kind = mtlkit.plugin(Kind)
"""


@pytest.fixture
def check(mtlkit, tmp_path, monkeypatch, forget):
    """Return a function that checks a run of a task in a file, one of whose rows holds a value."""
    monkeypatch.chdir(tmp_path)

    def checked(value, *arguments):
        forget()  # a file of that name that an earlier test had
        (tmp_path / "spoilt.py").write_text(textwrap.dedent(SPOILT).format(value=value), encoding="utf-8")
        (tmp_path / "run.yaml").write_text("tasks: [kind]\ntraining: {device: cpu, batch_size: 32}\n", encoding="utf-8")
        return mtlkit("check", "run.yaml", "--plugin", "spoilt.py", *arguments)

    return checked


def test_an_error_in_the_data_is_told_with_what_to_do_and_exits_with_4(check):
    done = check("float('nan')")
    assert done.exit_code == 4
    assert "error" in done.output
    assert "rows of 'train' have inputs that are NaN or infinite" in done.output
    assert "Fill them in" in done.output
    assert "run.yaml is fine; its data is not, and no step was tried." in done.output


def test_a_warning_lets_it_be_trained(check):
    done = check("5000.0")
    assert done.exit_code == 0
    assert "warning" in done.output
    assert "Scale them" in done.output
    assert "A step takes about" in done.output
    assert "run.yaml can be trained; see the warnings." in done.output


def test_json_holds_every_check_with_its_level(check):
    done = check("5000.0", "--json")
    told = json.loads(done.stdout)
    levels = {each["check"]: each["level"] for each in told["checks"]}
    assert levels["inputs_are_scaled"] == "warning"
    assert levels["inputs_are_finite"] == "ok"
    assert told["cost"]["seconds"] > 0
    assert sum(told["labels"][0]["classes"]) == told["labels"][0]["train"] == 70
