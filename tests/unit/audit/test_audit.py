"""Every check finds the defect that is planted for it, and clean data is silent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mtlkit
from mtlkit import heads, tasks
from mtlkit.app import inspect
from mtlkit.audit import CHECKS
from mtlkit.findings import Level
from mtlkit.registry import Record, Registry

ROWS, HELD_OUT = 200, 60


@dataclass(frozen=True)
class Rows(mtlkit.Source):
    """Points, some categories, a class and a number that follow from them; and whatever `spoil` makes of it."""

    spoil: object = None

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(0)
        made = {}
        for name, n in (("train", ROWS), ("validation", HELD_OUT), ("test", HELD_OUT)):
            points = torch.randn(n, 4, generator=generator)
            number = points.sum(1) + 0.1 * torch.randn(n, generator=generator)
            rows = {
                "points": points,
                "categories": torch.randint(5, (n, 2), generator=generator),
                "kind": torch.bucketize(number, torch.tensor([-1.0, 1.0])),
                "number": number,
            }
            made[name] = rows
        if self.spoil is not None:
            self.spoil(made)
        return {
            name: mtlkit.Split(
                {"points": rows["points"], "categories": rows["categories"]},
                {"kind": rows["kind"], "number": rows["number"]},
            )
            for name, rows in made.items()
        }


class Joined(mtlkit.Encoder):
    """The points and the categories through one layer."""

    def __init__(self, inputs: mtlkit.InputSpec) -> None:
        super().__init__()
        self.embed = mtlkit.stems.Embed(inputs)
        self.layer = nn.Linear(self.embed.rows.size, 8)
        self.features = mtlkit.FeatureSpec((8,))

    def forward(self, inputs):
        return torch.tanh(self.layer(self.embed(inputs)))


class Kind(tasks.Classification):
    """Which of three."""

    target, n_classes = "kind", 3
    spoil = None

    def source(self):
        return Rows(self.spoil)


class Number(tasks.Regression):
    """How much."""

    target = "number"
    spoil = None

    def source(self):
        return Rows(self.spoil)


@pytest.fixture(name="audit")
def fixture_audit(monkeypatch):
    """Return a function that inspects a run of the two tasks with what is given instead."""

    def audited(spoil=None, kind=Kind, number=Number, **settings):
        import sys
        import types

        module = types.ModuleType("spoilt")
        monkeypatch.setitem(sys.modules, "spoilt", module)
        records = Registry.discover(plugins=False).records()
        given = {"kind": ("tasks", kind), "number": ("tasks", number), "joined": ("encoders", Joined)}
        for name, (group, component) in given.items():
            spoilt = type(component.__name__, (component,), {"spoil": staticmethod(spoil) if spoil else None})
            spoilt.__doc__ = component.__doc__
            setattr(module, name, mtlkit.plugin(spoilt if group == "tasks" else component))
            records.append(Record(group, name, "spoilt", "1", f"spoilt:{name}"))
        config = {
            "tasks": ["kind", "number"],
            "encoder": "joined",
            "training": {"device": "cpu", "batch_size": 64, "epochs": 2},
            **settings,
        }
        return inspect(config, registry=Registry(records))[2]

    return audited


def found(audit):
    return {check.name: list(findings) for check, findings in audit.findings if findings}


def test_clean_data_is_silent(audit):
    told = audit()
    assert found(told) == {}
    assert not told.has_errors
    assert {check.name for check, _ in told.findings} == {check.name for check in CHECKS}


def test_labels_and_costs_are_told(audit):
    told = audit()
    kind, number = told.tasks
    assert sum(kind["classes"]) == kind["train"] == ROWS
    assert number["train"] == ROWS
    assert abs(number["mean"]) < 1
    cost = told.cost
    assert cost.steps == 8
    assert cost.seconds > 0
    weights = 4 * sum(p.numel() for p in (Joined(mtlkit.InputSpec((2,), (5, 5))).embed.parameters()))
    assert cost.parameters > weights
    assert cost.optimizer > 0
    assert cost.activations >= 64 * 8 * 4  # the features of a batch, at least
    assert cost.rows == (ROWS + 2 * HELD_OUT) * (4 * 4 + 2 * 8 + 8 + 4)
    assert cost.bytes == cost.parameters + cost.optimizer + cost.activations + cost.rows


def setting(split, column, index, value):
    def spoil(made):
        made[split][column][index] = value

    return spoil


def test_an_input_that_is_nan(audit):
    told = audit(setting("validation", "points", (7, 2), float("nan")))
    (finding,) = found(told)["inputs_are_finite"]
    assert finding.level is Level.ERROR
    assert "1 of 60 rows of 'validation' have inputs that are NaN or infinite: rows 7" in finding.what
    assert told.has_errors
    assert told.cost is None


def test_a_constant_column(audit):
    (finding,) = found(audit(setting("train", "points", (slice(None), 1), 0.5)))["features_vary"]
    assert finding.what == "1 of 4 input columns are the same in every training row: column 1"
    assert finding.about == ("kind", "number", "input 'points'")


def test_inputs_of_another_size(audit):
    def spoil(made):
        for rows in made.values():
            rows["points"][:, 3] *= 1e4

    told = audit(spoil)
    assert "column 3" in found(told)["inputs_are_scaled"][0].what


def test_a_category_that_is_never_trained(audit):
    told = found(audit(setting("test", "categories", (slice(0, 3), 1), 9)))
    (finding,) = told["categories_are_seen_in_training"]
    assert "1 input columns of 'test' hold categories that no training row has; column 1 holds 9" in finding.what


def test_splits_that_differ(audit):
    def spoil(made):
        made["test"]["points"][:, 0] += 4

    (finding,) = found(audit(spoil))["splits_are_alike"]
    assert "the means of 1 of 4 input columns differ between 'train' and 'test'" in finding.what


def test_a_split_without_labels(audit):
    told = found(audit(setting("test", "kind", slice(None), -100)))
    (finding,) = told["splits_have_labels"]
    assert (finding.level, finding.about) == (Level.ERROR, ("kind",))
    assert "none of the 60 rows of 'test' has a label" in finding.what


def test_labels_that_are_mostly_missing(audit):
    (finding,) = found(audit(setting("train", "number", slice(0, 150), float("nan"))))["labels_are_there"]
    assert finding.what == "75% of 200 training rows have no label"
    assert finding.about == ("number",)


def test_a_label_that_is_no_class(audit):
    told = audit(setting("train", "kind", 5, 3))
    (finding,) = found(told)["classes_are_known"]
    assert finding.what == "labels of 'train' are 3, and n_classes is 3"
    assert told.cost is None


def test_a_class_that_is_never_trained(audit):
    def spoil(made):
        made["train"]["kind"][made["train"]["kind"] == 2] = 0

    (finding,) = found(audit(spoil))["classes_are_trained"]
    assert finding.level is Level.ERROR
    assert "no training row is of class 2" in finding.what


def test_a_class_that_no_row_has(audit):
    class Four(Kind):
        """One of four, it says."""

        n_classes = 4

    (finding,) = found(audit(kind=Four))["classes_are_trained"]
    assert (finding.level, finding.what) == (Level.WARNING, "no row is of class 3, and n_classes is 4")


def test_a_rare_class(audit):
    def spoil(made):
        kind = made["train"]["kind"]
        kind[kind == 2] = 0
        kind[:2] = 2

    (finding,) = found(audit(spoil))["classes_are_balanced"]
    assert "1 of 3 classes are rare: class 2 (2), against" in finding.what


def test_a_rare_class_that_is_drawn_as_often_as_the_others(audit):
    def spoil(made):
        kind = made["train"]["kind"]
        kind[kind == 2] = 0
        kind[:2] = 2

    balanced = [{"name": name, "sampling": {"balanced": "kind"}} for name in ("kind", "number")]
    assert "classes_are_balanced" not in found(audit(spoil, tasks=balanced))


def test_targets_that_are_all_the_same(audit):
    (finding,) = found(audit(setting("train", "number", slice(None), 1.5)))["targets_vary"]
    assert finding.what == "all 200 labelled training rows have the target 1.5"


def test_a_target_that_is_infinite(audit):
    (finding,) = found(audit(setting("train", "number", 4, float("inf"))))["targets_are_finite"]
    assert finding.what == "1 of 200 targets of 'train' are infinite: rows 4"


def test_targets_of_another_size(audit):
    def spoil(made):
        for rows in made.values():
            rows["number"] *= 1000

    told = found(audit(spoil))
    assert "targets have a mean or a standard deviation of" in told["targets_are_scaled"][0].what
    (finding,) = told["gradients_are_of_like_size"]
    assert finding.about == ("number", "kind")


def test_a_strategy_that_balances_is_not_told_of_sizes(audit):
    def spoil(made):
        for rows in made.values():
            rows["number"] *= 1000

    assert "gradients_are_of_like_size" not in found(audit(spoil, strategy="gradnorm"))


def test_labels_at_odds(audit):
    def spoil(made):
        train = made["train"]
        for name in ("points", "categories"):
            train[name][1] = train[name][0]
        train["kind"][:2] = torch.tensor([0, 1])

    (finding,) = found(audit(spoil))["labels_agree"]
    assert finding.what == "1 training rows have a label other than that of a row with the same inputs"


def test_an_input_that_gives_the_target_away(audit):
    def spoil(made):
        for rows in made.values():
            rows["points"][:, 2] = 3 - 2 * rows["number"]

    (finding,) = found(audit(spoil))["no_input_is_the_target"]
    assert "the target is given away by input column 2" in finding.what


def test_rows_of_one_split_in_another(audit):
    def spoil(made):
        for name in ("points", "categories"):
            made["test"][name][:5] = made["train"][name][10:15]
            made["validation"][name][0] = made["test"][name][20]

    told = found(audit(spoil))["splits_are_apart"]
    assert [finding.what for finding in told] == [
        "5 of 60 rows of 'test' have the inputs of a row of 'train'",
        "1 of 60 rows of 'test' have the inputs of a row of 'validation'",
    ]


def test_rows_that_repeat_others(audit):
    def spoil(made):
        for column in made["train"].values():
            column[100:150] = column[:50]

    (finding,) = found(audit(spoil))["rows_are_distinct"]
    assert finding.what == "50 of 200 training rows have the inputs of another"


def test_splits_that_are_small(audit):
    def spoil(made):
        made["validation"] = {name: column[:10] for name, column in made["validation"].items()}

    told = found(audit(spoil, training={"device": "cpu", "batch_size": 500}))["splits_are_large_enough"]
    assert [finding.what for finding in told] == [
        "'validation' has 10 rows",
        "'train' has 200 rows, and a batch is to have 500",
    ]


class Detached(nn.Module):
    """A head that nothing goes back through."""

    def __init__(self, features):
        super().__init__()
        self.head = heads.Regression(features)

    def forward(self, features):
        return self.head(features.detach())


def test_a_task_that_teaches_the_others_nothing(audit):
    class Cut(Number):
        """Its head is cut off."""

        def head(self, features):
            return Detached(features)

    (finding,) = found(audit(number=Cut))["losses_reach_what_is_shared"]
    assert (finding.level, finding.about) == (Level.ERROR, ("number",))


def test_an_encoder_that_is_frozen_on_purpose_is_no_defect(audit):
    assert found(audit(transfer={"freeze": ["*"]})) == {}


def test_a_parameter_that_no_loss_depends_on(audit):
    class Idle(Number):
        """Its head has a layer too many."""

        def head(self, features):
            head = heads.Regression(features)
            head.idle = nn.Linear(2, 2)
            return head

    (finding,) = found(audit(number=Idle))["everything_is_trained"]
    assert "no loss depends on 2 parameters: heads.task_number.idle.weight" in finding.what


def test_a_loss_that_is_not_finite(audit):
    class Logarithm(Number):
        """Its loss is the logarithm of what may be negative."""

        def loss(self, output, target):
            return (output - output.min()).log().mean()

    told = audit(number=Logarithm)
    (finding,) = found(told)["losses_are_finite"]
    assert finding.what == "the loss of the first batch is -inf"
    assert told.cost.seconds is None


def test_a_gradient_that_is_not_finite(audit):
    class Root(Number):
        """Its loss is a root that is 0 somewhere."""

        def loss(self, output, target):
            return (output - output.min()).sqrt().mean() + F.mse_loss(output, target)

    (finding,) = found(audit(number=Root))["gradients_are_finite"]
    assert "its gradient is not finite" in finding.what


def test_every_check_has_a_test():
    """Each name stands in a test above."""
    from pathlib import Path

    text = Path(__file__).read_text(encoding="utf-8")
    assert [check.name for check in CHECKS if f'["{check.name}"]' not in text] == []
    assert len(CHECKS) >= 15
