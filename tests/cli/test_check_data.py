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


class TestMixing:
    """Of two sources."""

    SETTINGS = ("tasks=[{name: digit}, {name: rotation, batch_size: 128}]", "encoder.layers=[8]")

    def drawn(self, mtlkit, mixing):
        done = mtlkit("check", "run.yaml", *self.SETTINGS, f"mixing={mixing}", "--json")
        assert done.exit_code == 0, done.output
        return {task["task"]: task["drawn"] for task in json.loads(done.output)["tasks"]}

    def test_says_how_often_each_source_is_drawn(self, mtlkit):
        told = self.drawn(mtlkit, "{name: ratios, ratios: {digit: 1, rotation: 3}}")
        assert told == {"digit": {"first": 0.25, "last": 0.25}, "rotation": {"first": 0.75, "last": 0.75}}
        shown = mtlkit("check", "run.yaml", *self.SETTINGS, "mixing={name: ratios, ratios: {digit: 1, rotation: 3}}")
        assert "drawn" in shown.output
        assert "75 %" in shown.output

    def test_says_how_that_changes(self, mtlkit):
        digit = self.drawn(mtlkit, "annealed")["digit"]
        assert digit["first"] < digit["last"] < 0.5

    def test_says_nothing_where_each_step_draws_from_all(self, mtlkit):
        assert set(self.drawn(mtlkit, "all").values()) == {None}
        assert "drawn" not in mtlkit("check", "run.yaml", *self.SETTINGS).output
