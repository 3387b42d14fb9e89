"""What pydantic found wrong, said with a path, a place, what was received and what would work."""

from __future__ import annotations

import json
import math
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mtlkit.errors import ConfigError, Problem, closest
from mtlkit.problems import as_json, child, problems_of
from mtlkit.yamlfile import dotted, parse


class Layer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    width: Annotated[int, Field(ge=1)]
    kind: Literal["dense", "conv"] = "dense"


class Net(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    layers: list[Layer] = []
    size: int | list[int] = 1
    rate: float | None = None


def found(text: str, under: tuple[str | int, ...] = ()) -> list[Problem]:
    """Return the problems of the part of a text that stands under a path."""
    document = parse(text, "run.yaml")
    data = document.data
    for part in under:
        data = child(data, part)
    with pytest.raises(ValidationError) as caught:
        Net.model_validate_json(as_json(data))
    return problems_of(caught.value, document, under, Net)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("tasks",), "tasks"),
        (("tasks", 0, "weight"), "tasks[0].weight"),
        (("a", 0, 1), "a[0][1]"),
        ((0, "a"), "[0].a"),
    ],
)
def test_dotted(path, text):
    assert dotted(path) == text


def test_child():
    data = {"a": [1, {"b": None}], "0": "zero"}
    assert child(data, "a") == [1, {"b": None}]
    assert child(child(data, "a"), 0) == 1
    assert child(child(data, "a"), 9) is None
    assert child(data, "c") is None
    assert child("text", 0) is None
    assert child(None, "a") is None


class TestAsJson:
    def test_nothing_is_an_empty_mapping(self):
        assert as_json(None) == "{}"

    def test_what_json_lacks_is_kept_for_the_check_to_refuse(self):
        assert math.isnan(json.loads(as_json({"a": math.nan}))["a"])
        assert json.loads(as_json({"a": -math.inf}))["a"] == -math.inf

    @given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
    def test_it_reads_back(self, data):
        assert json.loads(as_json({"a": data})) == {"a": data}


class TestProblems:
    def test_an_unknown_key_is_placed_at_the_key(self):
        assert found("layers:\n  - {width: 3, kidn: conv}\n") == [
            Problem("Unknown key 'kidn'", "layers[0].kidn", "run.yaml:2:16", "Did you mean 'kind'? Known: width, kind.")
        ]

    def test_a_missing_key_is_placed_where_it_should_stand(self):
        assert found("layers:\n  - {kind: conv}\n") == [
            Problem("Missing key 'width'", "layers[0]", "run.yaml:2:5", "It has no default.")
        ]

    def test_a_bound(self):
        assert found("layers: [{width: 0}]") == [
            Problem(
                "Cannot use 0 (integer)",
                "layers[0].width",
                "run.yaml:1:18",
                "It should be greater than or equal to 1.",
            )
        ]

    def test_a_word_that_is_none_of_those_that_may_stand_here(self):
        assert found("layers: [{width: 1, kind: cnov}]") == [
            Problem(
                "Unknown value 'cnov'", "layers[0].kind", "run.yaml:1:27", "Did you mean 'conv'? Known: dense, conv."
            )
        ]

    def test_a_part_of_a_document_is_placed_in_the_whole(self):
        (problem,) = found("tasks:\n  - options: {rate: fast}\n", ("tasks", 0, "options"))
        assert (problem.path, problem.location) == ("tasks[0].options.rate", "run.yaml:2:21")

    def test_a_mapping_and_a_list_are_called_so(self):
        assert "mapping" in found("layers: [3]")[0].remedy
        assert "list" in found("layers: 3")[0].remedy

    def test_a_choice_of_types_keeps_the_path_of_the_setting(self):
        problems = found("size: big\n")
        assert {problem.path for problem in problems} == {"size"}
        assert {problem.location for problem in problems} == {"run.yaml:1:7"}

    def test_a_choice_of_types_keeps_the_path_of_what_is_inside(self):
        problems = found("size: [1, big]\n")
        assert ("size[1]", "run.yaml:1:11") in {(problem.path, problem.location) for problem in problems}


class TestTheText:
    @pytest.mark.parametrize(
        ("problem", "text"),
        [
            (Problem("Wrong"), "Wrong."),
            (Problem("Wrong", "a.b"), "Wrong at a.b."),
            (Problem("Wrong", "a.b", "run.yaml:1:2"), "Wrong at a.b (run.yaml:1:2)."),
            (Problem("Wrong", location="run.yaml:1:2"), "Wrong (run.yaml:1:2)."),
            (Problem("Wrong", "a", remedy="Do so."), "Wrong at a. Do so."),
        ],
    )
    def test_of_a_problem(self, problem, text):
        assert str(problem) == text

    def test_of_an_error(self):
        error = ConfigError([Problem("One"), Problem("Two", "a")])
        assert str(error) == "One.\nTwo at a."
        assert error.to_dict() == {
            "kind": "ConfigError",
            "message": "One.\nTwo at a.",
            "exit_code": 2,
            "problems": [
                {"what": "One", "path": "", "location": "", "remedy": ""},
                {"what": "Two", "path": "a", "location": "", "remedy": ""},
            ],
        }

    def test_a_message_is_one_problem(self):
        assert str(ConfigError("It is wrong.")) == "It is wrong."


class TestClosest:
    def test_the_nearest_is_guessed_and_all_are_named(self):
        assert closest("mgad", ["fixed", "mgda"]) == "Did you mean 'mgda'? Known: fixed, mgda."

    def test_nothing_near_is_no_guess(self):
        assert closest("zzz", ["fixed"], kind="Installed") == "Installed: fixed."

    def test_nothing_known(self):
        assert closest("a", []) == "Known: none."

    def test_what_is_no_text(self):
        assert closest(3, ["a"]) == "Known: a."
