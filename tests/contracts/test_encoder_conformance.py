"""The kit finds every defect that an encoder may have, and lets pass what is only odd."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from mtlkit import InputSpec
from mtlkit.encoders import CNN, MLP, Identity, ResNet, Tabular, Transformer, ViT
from mtlkit.testing import Nonconformance
from mtlkit.testing.encoders import CHECKS
from mtlkit.testing.probes import RandomStates
from mtlkit.testing.subject import Subject

SPEC = importlib.util.spec_from_file_location("broken_modules", Path(__file__).with_name("broken_modules.py"))
broken = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(broken)

BY_NAME = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute on one thread: there is nothing here to share among several, and waiting for one another takes long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def having(defect):
    return type(f"{defect.__name__}Encoder", (defect, broken.PlainEncoder), {})


# check, what has the defect, what is said of it, and the checks that cannot but fail with it
DEFECTS = [
    ("rows_it_does_not_take_are_refused", broken.FailsForImages, r"shape \(3, 8\) raised KeyError: 'image'", ()),
    ("rows_it_does_not_take_are_refused", broken.FailsWhenRun, r"shape \(6, 3, 8\) .*raised RuntimeError: exp", ()),
    ("rows_it_does_not_take_are_refused", broken.RefusesInSilence, "with a ValueError that says nothing", ()),
    (
        "features_are_what_it_says",
        broken.PromisesMore,
        r"rows of shape \(7,\) says features \(6,\), and made shape \(2, 5\) of 2 rows\. Return \(2, 6\)",
        (),
    ),
    (
        "features_are_what_it_says",
        broken.PromisesAnotherPart,
        r"says features 'fine' of shape \(4,\), and made shape \(2, 3\) of 2 rows",
        (),
    ),
    ("features_are_what_it_says", broken.PromisesNothing, r"has \(5,\) as its attribute 'features'\. Set", ()),
    ("one_row_can_be_encoded", having(broken.Squeezes), r"made shape \(5,\) of a batch of one row, and \(2, 5\)", ()),
    ("features_are_finite", having(broken.TakesLogarithms), "made NaN or infinite features of ordinary rows", ()),
    ("every_parameter_is_trained", broken.HasAnIdleParameter, "do not depend on: idle. Use them in forward", ()),
    ("every_parameter_is_trained", broken.HasNoGradient, "has a gradient of zero at every parameter", ()),
    (
        "last_layer_is_the_one_before_the_features",
        broken.NamesAnotherLayer,
        r"answered last_layer\(\) with Linear, which is none of its own submodules",
        (),
    ),
    (
        "last_layer_is_the_one_before_the_features",
        broken.NamesAnIdleLayer,
        r"features do not depend on that layer's weight\. .*override last_layer\(\)",
        ("every_parameter_is_trained",),
    ),
    (
        "last_layer_is_the_one_before_the_features",
        broken.NamesALayerWithoutWeight,
        r"raised ValueError: Tanh has no layer with a weight",
        (),
    ),
    ("last_layer_is_the_one_before_the_features", broken.NamesAFrozenLayer, "whose weight is frozen", ()),
    (
        "evaluation_mode_reaches_every_layer",
        having(broken.StaysInTrainingMode),
        r"put in evaluation mode, and layers, layers\.0, layers\.0\.0 stayed in training mode\. .*super\(\)\.train",
        (),
    ),
    ("evaluation_is_deterministic", having(broken.Remembers), r"different features of the same rows .* apart", ()),
    ("evaluation_draws_no_random_numbers", having(broken.DrawsInEvaluation), "changed torch's global random", ()),
    (
        "evaluation_draws_no_random_numbers",
        having(broken.DropsInEvaluation),
        "in evaluation mode",
        ("evaluation_is_deterministic",),
    ),
    ("rows_are_independent_in_evaluation", having(broken.CentresTheBatch), "same row beside other rows .* apart", ()),
    ("stages_are_a_chain", broken.SkipsItsLastStage, "makes other features by its forward.*or return no stages", ()),
    ("stages_are_a_chain", broken.PassesPairs, r"Stage 0 of the encoder made type tuple of 6 rows\. Every stage", ()),
    (
        "stages_are_a_chain",
        broken.SaysOfNoModules,
        r"answered stages\(\) with \['layers\.0', 'layers\.1'\]\. Return a list of torch modules",
        ("each_parameter_is_in_one_stage",),
    ),
    ("each_parameter_is_in_one_stage", broken.HoldsAParameterBeside, r"has 'scale' in none of its stages\(\)", ()),
    ("each_parameter_is_in_one_stage", broken.TiesItsStages, r"has 'layers\.1\.0\.weight' in 2 of its stages\(\)", ()),
    ("each_parameter_is_in_one_stage", broken.LevelsOfHalf, r"has 'layers\.0\.1\.weight' in none of its levels", ()),
    (
        "what_it_prepares_is_in_its_state",
        broken.LearnsInSecret,
        r"the state of one that was prepared was loaded.*register_buffer\(\) in the constructor",
        (),
    ),
    ("rows_are_independent_in_evaluation", broken.LooksAtOtherTexts, "same row in a smaller batch .* apart", ()),
    (
        "rows_are_apart_where_it_says_so",
        broken.CentresInTraining,
        "same row beside other rows in training mode.*apart. It says row_by_row",
        (),
    ),
    ("rows_are_apart_where_it_says_so", broken.DividesByItsRows, "same row in a smaller batch in training mode", ()),
    ("rows_are_apart_where_it_says_so", broken.CountsItsPasses, "changed its passes when it was run in training", ()),
    ("rows_are_not_changed", broken.WritesToAPart, "changed the rows that it was given, in training", ()),
    ("rows_are_not_changed", broken.WritesToTrainingRows, r"changed the training rows.*in prepare\(\)", ()),
    ("rows_are_not_changed", having(broken.WritesToItsRows), "changed the rows that it was given, in training", ()),
    ("state_goes_through_a_checkpoint", having(broken.HidesState), "another one of another seed.*register_buffer", ()),
    ("the_same_seed_gives_the_same_weights", having(broken.SeedsItself), r"the same seed: layers\.0\.1\.weight", ()),
    ("construction_leaves_random_state_alone", having(broken.DrawsFromPython), "changed Python's global random", ()),
    ("construction_leaves_random_state_alone", having(broken.SeedsTorch), "seeded torch's global random gener", ()),
    ("float64_is_kept", having(broken.StaysInFloat32), r"dtype torch\.float32 after \.double\(\)", ()),
    ("copies_stand_alone", having(broken.HoldsAClosure), "features once the original was changed", ()),
    ("copies_stand_alone", having(broken.CannotBeCopied), "raised TypeError: cannot pickle '_thread.lock' object", ()),
    ("nothing_is_printed", having(broken.Prints), r"printed 'features: \(6, 5\).*use logging", ()),
]


def failing(subject):
    found = set()
    for check in CHECKS:
        try:
            check.run(subject)
        except Nonconformance:
            found.add(check.name)
    return found


@pytest.mark.parametrize(
    ("name", "component", "said", "also"), DEFECTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_defect_is_found_by_its_check_alone(name, component, said, also):
    subject = Subject.of(component)
    with pytest.raises(Nonconformance, match=f"(?s){said}"):
        BY_NAME[name].run(subject)
    assert failing(subject) == {name, *also}


def test_every_check_has_a_defect_that_it_finds():
    assert {name for name, *_ in DEFECTS} == set(BY_NAME)


@pytest.mark.parametrize(
    ("component", "said"),
    [
        (broken.RefusesAll, r"none of the shapes \(7,\), .*rows must be graphs; received \(3, 16, 16\).*inputs=\["),
        (broken.ReturnsTwo, r"forward\(\) returned tuple\. Return one tensor of features"),
        (broken.MakesIntegers, r"features of dtype torch\.int64"),
        (broken.NamesOtherParts, r"forward\(\) returned 'coarse'\. It says that its features are 'coarse', 'fine': "),
    ],
)
def test_where_nothing_can_be_tried_every_check_says_why(component, said):
    for check in CHECKS:
        with pytest.raises(Nonconformance, match=said):
            check.run(Subject.of(component))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize(
    ("component", "options"),
    [
        (broken.PlainEncoder, {}),
        (MLP, {}),
        (MLP, {"dropout": 0.5, "activation": "gelu"}),
        (CNN, {}),
        (CNN, {"norm": "batch", "dropout": 0.5}),
        (Identity, {}),
        (ResNet, {"width": 0.0625}),
        (ResNet, {"width": 0.0625, "depth": 50, "norm": "batch", "stem": "classic", "output": "maps"}),
        (Tabular, {"indicators": True}),
        (Tabular, {"blocks": "residual", "dropout": 0.2}),
        (Transformer, {"width": 8, "depth": 2, "dropout": 0.2}),
        (Transformer, {"width": 8, "depth": 2, "pool": "none", "positions": "sinusoidal"}),
        (ViT, {"width": 12, "depth": 2, "dropout": 0.2}),
        (ViT, {"width": 12, "depth": 2, "pool": "class", "positions": "sin-cos"}),
        (broken.Staged, {}),
        (broken.MakesScales, {}),
        (broken.LooksUp, {}),
        (broken.Attends, {}),
        (broken.KeepsStatistics, {}),
        (broken.IsFrozen, {}),
        (broken.SkipsLayers, {}),
        (broken.CentresAndSaysNothing, {}),
        (broken.DropsFeatures, {}),
    ],
)
def test_a_sound_encoder_passes(check, component, options):
    inputs = {broken.Attends: [InputSpec((3, 8))], ResNet: [InputSpec((1, 8, 8))]}.get(component, ())
    check.run(Subject.of(component, options=options, inputs=inputs))


def test_rows_of_parts_categories_and_tokens_may_be_named():
    table = InputSpec(parts={"numeric": InputSpec((2,)), "categorical": InputSpec((1,), categories=(9,))})
    for check in CHECKS:
        check.run(Subject.of(Tabular, inputs=[table]))
    with pytest.raises(Nonconformance, match=r"refuses rows of shape \{numeric: \(2,\), categorical: \(1,\)\}, which"):
        BY_NAME["rows_it_does_not_take_are_refused"].run(Subject.of(MLP, inputs=[table]))


def test_rows_that_are_named_may_not_be_refused():
    check = BY_NAME["rows_it_does_not_take_are_refused"]
    check.run(Subject.of(CNN, inputs=[InputSpec((2, 5, 9))]))
    with pytest.raises(Nonconformance, match=r"refuses rows of shape \(5,\), which it is to be tested with: cnn takes"):
        check.run(Subject.of(CNN, inputs=[InputSpec((2, 5, 9)), InputSpec((5,))]))


def test_an_option_that_is_refused_is_told_of():
    with pytest.raises(Nonconformance, match="Unknown key 'layer'"):
        BY_NAME["features_are_finite"].run(Subject.of(MLP, options={"layer": [3]}))


def test_the_checks_leave_random_state_alone():
    before = RandomStates.now()
    for check in CHECKS:
        check.run(Subject.of(CNN, options={"dropout": 0.5}))
        assert before.changed() == []


def test_changes_of_random_state_are_told_by_whose_they_are():
    before = RandomStates.now()
    np.random.rand()  # noqa: NPY002 - the generator that is watched
    assert before.changed() == ["NumPy's"]
    torch.rand(())
    assert before.changed() == ["NumPy's", "torch's"]
    before.restore()
    assert before.changed() == []
