"""The keyword-only signature of a component is the schema of its options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field
from pydantic_core import SchemaError

from mtlkit.encoders import CNN, MLP
from mtlkit.errors import ConfigError, PluginError, Problem
from mtlkit.options import signature_of
from mtlkit.resolve import optimizers
from mtlkit.strategies import Fixed, GradNorm, Uncertainty
from mtlkit.task import Task
from mtlkit.yamlfile import dump, parse

if TYPE_CHECKING:
    from nowhere import Nothing

OPTIMIZERS = optimizers()


class Everything:
    """One option of each kind that components have."""

    def __init__(
        self,
        inputs: int,
        n_tasks: int = 1,
        *,
        rate: Annotated[float, Field(gt=0, le=1)] = 0.5,
        size: Annotated[int, Field(ge=1)] = 8,
        flag: bool = False,
        kind: Literal["dense", "conv"] = "dense",
        word: str = "a",
        widths: Annotated[tuple[int, ...], Field(min_length=1)] = (4,),
        pair: tuple[float, float] = (0.9, 0.999),
        alphas: Sequence[float] | None = None,
        table: dict[str, float] = {},  # noqa: B006 - as authors write it
        limit: float | None = None,
        either: int | list[int] = 1,
    ) -> None:
        self.given = {key: value for key, value in locals().items() if key != "self"}


class Required:
    def __init__(self, *, path: str, size: int = 1) -> None: ...


def checked(component: type, text: str, **options: Any) -> dict[str, Any]:
    """Return the options that a text gives, as a component's configuration would."""
    document = parse(text, "run.yaml")
    return signature_of(component, **options).check(document.data or {}, document, ())


def problems(component: type, text: str, **options: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        checked(component, text, **options)
    return caught.value.problems


class TestTheSignature:
    def test_what_comes_before_the_options_are_facts(self):
        assert signature_of(Everything).facts == ("inputs", "n_tasks")

    def test_options_have_their_defaults(self):
        assert checked(Everything, "") == {
            "rate": 0.5,
            "size": 8,
            "flag": False,
            "kind": "dense",
            "word": "a",
            "widths": (4,),
            "pair": (0.9, 0.999),
            "alphas": None,
            "table": {},
            "limit": None,
            "either": 1,
        }

    def test_the_options_fit_the_constructor(self):
        options = checked(Everything, "widths: [8, 4]\n")
        assert Everything(3, 2, **options).given == {"inputs": 3, "n_tasks": 2, **options}

    def test_one_check_does_not_see_what_became_of_another(self):
        checked(Everything, "")["table"]["a"] = 1.0
        assert checked(Everything, "")["table"] == {}

    def test_a_class_without_a_constructor_has_no_options(self):
        class Plain:
            pass

        class Derived(Task):
            pass

        assert checked(Plain, "") == checked(Derived, "") == {}
        assert problems(Plain, "a: 1")[0].what == "Unknown key 'a'"

    def test_a_subclass_inherits_its_options(self):
        class Smaller(Everything):
            pass

        assert checked(Smaller, "size: 2")["size"] == 2

    @pytest.mark.parametrize(
        ("component", "facts", "options"),
        [
            (MLP, ("inputs",), {"layers", "activation", "dropout"}),
            (CNN, ("inputs",), {"channels", "kernel", "norm", "layers", "activation", "dropout"}),
            (Fixed, ("n_tasks",), {"alpha"}),
            (GradNorm, ("n_tasks", "n_classes"), {"alpha", "lr", "optimizer", "initial_loss"}),
            (Uncertainty, ("n_tasks", "loss_kinds"), {"lr"}),
        ],
    )
    def test_of_what_ships(self, component, facts, options):
        signature = signature_of(component)
        assert signature.facts == facts
        assert set(signature.names) == set(options)


class TestValues:
    @pytest.mark.parametrize(
        ("text", "name", "value"),
        [
            ("rate: 1", "rate", 1.0),
            ("rate: 1e-3", "rate", 0.001),
            ("size: 0x10", "size", 16),
            ("flag: true", "flag", True),
            ("kind: conv", "kind", "conv"),
            ("word: ''", "word", ""),
            ("widths: [1, 2, 3]", "widths", (1, 2, 3)),
            ("pair: [0, 1]", "pair", (0.0, 1.0)),
            ("alphas: [1, 2.5]", "alphas", [1.0, 2.5]),
            ("alphas: null", "alphas", None),
            ("table: {a: 1}", "table", {"a": 1.0}),
            ("limit: 3", "limit", 3.0),
            ("either: [1]", "either", [1]),
        ],
    )
    def test_accepted(self, text, name, value):
        received = checked(Everything, text)[name]
        assert received == value
        assert type(received) is type(value)

    @pytest.mark.parametrize(
        ("text", "path", "place"),
        [
            ("rate: .nan", "rate", "1:7"),
            ("rate: .inf", "rate", "1:7"),
            ("rate: 0", "rate", "1:7"),
            ("rate: 1.5", "rate", "1:7"),
            ("rate: '0.5'", "rate", "1:7"),
            ("rate: true", "rate", "1:7"),
            ("rate: null", "rate", "1:7"),
            ("rate: [1]", "rate", "1:7"),
            ("limit: .nan", "limit", "1:8"),
            ("limit: -.inf", "limit", "1:8"),
            ("size: 0", "size", "1:7"),
            ("size: 1.5", "size", "1:7"),
            ("size: true", "size", "1:7"),
            ("size: big", "size", "1:7"),
            ("flag: 1", "flag", "1:7"),
            ("flag: 'true'", "flag", "1:7"),
            ("flag: yes", "flag", "1:7"),
            ("kind: pool", "kind", "1:7"),
            ("word: 3", "word", "1:7"),
            ("widths: []", "widths", "1:9"),
            ("widths: 3", "widths", "1:9"),
            ("widths: {a: 1}", "widths", "1:9"),
            ("widths: [1, x]", "widths[1]", "1:13"),
            ("widths: [1, true]", "widths[1]", "1:13"),
            ("pair: [0.1, .nan]", "pair[1]", "1:13"),
            ("alphas: [1, .inf]", "alphas[1]", "1:13"),
            ("alphas: text", "alphas", "1:9"),
            ("table: {a: .nan}", "table.a", "1:12"),
            ("table: [1]", "table", "1:8"),
        ],
    )
    def test_refused(self, text, path, place):
        (problem,) = problems(Everything, text)
        assert (problem.path, problem.location) == (path, f"run.yaml:{place}")
        assert problem.remedy.endswith(".")

    @pytest.mark.parametrize("text", ["pair: [0.1]", "pair: [0.1, 0.2, 0.3]", "pair: []"])
    def test_a_pair_has_two(self, text):
        found = problems(Everything, text)
        assert all(problem.path.startswith("pair") for problem in found)
        assert not any("Missing key" in problem.what for problem in found)

    def test_a_word_that_is_near_is_guessed(self):
        (problem,) = problems(Everything, "kind: covn")
        assert (problem.what, problem.remedy) == (
            "Unknown value 'covn'",
            "Did you mean 'conv'? Known: dense, conv.",
        )

    @pytest.mark.parametrize("name", ["sizes", "inputs", "n_tasks", "self"])
    def test_another_key_is_unknown_and_facts_are_no_options(self, name):
        (problem,) = problems(Everything, f"size: 2\n{name}: 3\n")
        assert (problem.what, problem.path, problem.location) == (f"Unknown key '{name}'", name, "run.yaml:2:1")
        assert "Known: rate, size, flag," in problem.remedy

    def test_a_missing_one(self):
        (problem,) = problems(Required, "size: 2\n")
        assert problem.what == "Missing key 'path'"

    def test_all_are_told_at_once(self):
        assert len(problems(Everything, "size: 0\nrate: 0\nflga: true\n")) == 3

    @given(value=st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4), st.lists))
    @settings(deadline=None, max_examples=60)
    def test_whatever_is_given_is_taken_or_refused(self, value):
        for name in ("rate", "size", "flag", "widths", "pair", "alphas", "table", "limit", "either"):
            document = parse(dump({name: value}), "run.yaml")
            try:
                options = signature_of(Everything).check(document.data, document, ())
            except ConfigError:
                continue
            numbers = [n for n in (options["rate"], options["limit"]) if n is not None]
            assert all(math.isfinite(number) for number in numbers)


class TestPlain:
    def test_is_what_yaml_holds(self):
        text = "widths: [8, 4]\nkind: conv\nalphas: [1, 2]\n"
        plain = signature_of(Everything).plain(checked(Everything, text))
        assert checked(Everything, dump(plain)) == checked(Everything, text)
        assert plain["widths"] == [8, 4]

    def test_a_default_of_another_type_is_no_obstacle(self):
        class Loose:
            def __init__(self, *, widths: list[int] = (4, 2), rate: float = None) -> None:  # noqa: RUF013
                ...

        assert signature_of(Loose).plain(checked(Loose, "")) == {"widths": [4, 2], "rate": None}


class TestSignaturesThatAreNoSchema:
    def test_any_keyword(self):
        class Component:
            def __init__(self, **kwargs: int) -> None: ...

        with pytest.raises(PluginError, match=r"Component takes \*\*kwargs: options are named one by one"):
            signature_of(Component)

    def test_any_argument(self):
        class Component:
            def __init__(self, *args: int) -> None: ...

        with pytest.raises(PluginError, match=r"Component takes \*args: "):
            signature_of(Component)

    def test_no_annotation(self):
        class Component:
            def __init__(self, *, size=3) -> None: ...

        with pytest.raises(PluginError, match=r"Option 'size' of .*Component has no type annotation"):
            signature_of(Component)

    def test_an_annotation_for_type_checkers_alone(self):
        class Component:
            def __init__(self, *, size: Nothing = None) -> None: ...

        with pytest.raises(PluginError, match=r"Component cannot be read as options: name 'Nothing' is not defined"):
            signature_of(Component)

    def test_an_annotation_that_is_no_type(self):
        class Component:
            def __init__(self, *, size: 3 = 3) -> None: ...

        with pytest.raises(PluginError, match="Component"):
            signature_of(Component)

    @pytest.mark.parametrize("kind", [torch.dtype, torch.Tensor])
    def test_a_type_that_no_configuration_can_hold(self, kind):
        class Component:
            def __init__(self, *, thing: Any = None) -> None: ...

        Component.__init__.__annotations__["thing"] = kind
        with pytest.raises(PluginError, match="thing"):
            signature_of(Component)

    def test_a_name_that_no_configuration_can_set(self):
        class Component:
            def __init__(self, *, _hidden: int = 1) -> None: ...

        with pytest.raises(PluginError, match=r"'_hidden' of .*Component"):
            signature_of(Component)

    @pytest.mark.parametrize("name", ["copy", "schema", "json"])
    def test_a_name_that_means_something_to_pydantic(self, name):
        namespace: dict[str, Any] = {}
        exec(f"class Component:\n    def __init__(self, *, {name}: int = 1): ...\n", namespace)  # noqa: S102
        component = namespace["Component"]
        component.__module__ = __name__
        assert checked(component, f"{name}: 2") == {name: 2}


class Halves:
    """Defaults that are whole numbers, where some are not."""

    def __init__(self, *, rate: float = 0, size: int = 0, wrong: Literal["a"] = 0) -> None:
        """Take them."""


def test_a_default_is_what_it_is_once_it_was_written_down_and_read():
    signature = signature_of(Halves)
    document = parse("{}")
    checked = signature.check({}, document, ())
    assert [type(checked[name]) for name in ("rate", "size")] == [float, int]
    assert checked["wrong"] == 0  # which is its author's to mend
    again = signature.check({"rate": 0, "size": 0}, document, ())
    assert [type(again[name]) for name in ("rate", "size")] == [float, int]


def test_ctrl_c_while_pydantic_works_is_no_fault_of_the_component(monkeypatch):
    def interrupted(*_, **__):
        raise SchemaError("Error building 'float' schema: KeyboardInterrupt: ")

    class Component:
        def __init__(self, *, width: int = 1) -> None: ...

    monkeypatch.setattr("mtlkit.options.TypeAdapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        signature_of(Component)


class TestOptimizers:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_every_signature_can_be_read(self, name):
        signature = signature_of(OPTIMIZERS[name], all_options=True)
        assert signature.facts == ("params",)
        options = checked(OPTIMIZERS[name], "lr: 0.25", all_options=True)
        assert options["lr"] == 0.25
        assert checked(OPTIMIZERS[name], dump(signature.plain(options)), all_options=True) == options
        assert signature.model.model_json_schema()["properties"]["lr"]["type"] == "number"

    @pytest.mark.parametrize("name", list(OPTIMIZERS))
    def test_every_one_can_be_made_of_its_options(self, name):
        options = checked(OPTIMIZERS[name], "lr: 0.25", all_options=True)
        optimizer = OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(2, 2))], **options)
        assert optimizer.param_groups[0]["lr"] == 0.25

    def test_those_that_cannot_take_a_weighted_step_are_left_out(self):
        assert {"adam", "adamw", "sgd"} <= OPTIMIZERS.keys()
        assert OPTIMIZERS.keys().isdisjoint({"lbfgs", "muon", "sparseadam", "optimizer"})

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("lr: fast", "lr"),
            ("lr: true", "lr"),
            ("lr: .nan", "lr"),
            ("betas: [0.9, x]", "betas[1]"),
            ("amsgrad: 1", "amsgrad"),
            ("learning_rate: 0.1", "learning_rate"),
            ("params: []", "params"),
        ],
    )
    def test_options_are_checked(self, text, path):
        (problem,) = problems(OPTIMIZERS["adam"], text, all_options=True)
        assert problem.path == path
