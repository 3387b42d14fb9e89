"""The kit finds every defect that an architecture may have, and lets pass what is only odd."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from mtlkit import InputSpec
from mtlkit.architectures import HardSharing
from mtlkit.builtins import BUILTINS
from mtlkit.testing import Nonconformance
from mtlkit.testing.architectures import CHECKS
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
    return type(f"{defect.__name__}Architecture", (defect, broken.PlainArchitecture), {})


# check, what has the defect, what is said of it, and the checks that cannot but fail with it
DEFECTS = [
    (
        "any_number_of_tasks_can_share",
        broken.RefusesOneTask,
        r"yet not for every number of tasks: there is nothing to share among 1 tasks\. .*baseline",
        (),
    ),
    ("any_number_of_tasks_can_share", broken.FailsForThreeTasks, "for 3 tasks raised KeyError: 'third'", ()),
    (
        "any_number_of_tasks_can_share",
        broken.MakesItsOwnEncoder,
        r"for 1 task on cnn encoders for rows of shape \(1, 6, 6\), run in evaluation mode .*raised RuntimeError",
        ("encoders_are_made_for_it",),
    ),
    ("encoders_are_made_for_it", broken.DropsAnEncoder, "made 2 encoders, and 1 of them are none of its submod", ()),
    (
        "features_are_what_it_says",
        broken.PromisesMoreToHeads,
        r"for 1 task on mlp encoders for rows of shape \(4,\) says features \(6,\), and made shape \(2, 5\) of 2 rows",
        (),
    ),
    (
        "features_follow_the_tasks_asked_for",
        broken.GoesByPlace,
        r"other features for task 1 when it was asked for the tasks \[1\] than when it was asked for all",
        (),
    ),
    ("shared_features_are_one_tensor", broken.EncodesAgain, "equal features for the tasks 0 and 1 in two tensors", ()),
    ("one_row_can_be_encoded", having(broken.Squeezes), r"made shape \(5,\) of a batch of one row, and \(2, 5\)", ()),
    (
        "features_are_finite",
        having(broken.TakesLogarithms),
        "NaN or infinite features",
        ("every_strategy_can_weigh_it",),
    ),
    ("shared_parameters_are_its_own", broken.CountsTwice, "counts 4 parameters as shared more than once", ()),
    (
        "shared_parameters_are_its_own",
        broken.CountsData,
        "counts as shared what is none of its parameters .Tensor, Tensor, Tensor",
        (
            "shared_parameters_are_those_that_tasks_share",
            "last_shared_layer_is_shared_by_all",
            "every_strategy_can_weigh_it",
        ),
    ),
    (
        "shared_parameters_are_its_own",
        broken.SharesNothing,
        "for 2 tasks on .* shares no parameter",
        (
            "shared_parameters_are_those_that_tasks_share",
            "last_shared_layer_is_shared_by_all",
            "every_strategy_can_weigh_it",
        ),
    ),
    (
        "shared_parameters_are_those_that_tasks_share",
        broken.CountsTooMany,
        r"counts 'scales\.0' as shared, and it is trained by the tasks 0",
        (),
    ),
    (
        "shared_parameters_are_those_that_tasks_share",
        broken.CountsTooFew,
        r"does not count 'encoder\.layers\.0\.1\.weight' as shared, and it is trained by the tasks 0, 1\.",
        (),
    ),
    (
        "shared_parameters_are_those_that_tasks_share",
        broken.DetachesATask,
        r"features for task 1 that depend on none of its shared_parameters\(\)\. .*without detach\(\)",
        ("last_shared_layer_is_shared_by_all", "every_strategy_can_weigh_it"),
    ),
    (
        "last_shared_layer_is_shared_by_all",
        broken.NamesAnotherSharedLayer,
        r"answered last_shared_layer\(\) with Linear, which is none of its own submodules",
        ("every_strategy_can_weigh_it",),
    ),
    (
        "last_shared_layer_is_shared_by_all",
        broken.NamesATasksLayer,
        r"the features of task 1 do not depend on a weight there\. Return the last layer that all tasks share",
        ("every_strategy_can_weigh_it",),
    ),
    (
        "last_shared_layer_is_shared_by_all",
        broken.NamesEachTasksLayer,
        r"answered last_shared_layer\(\) with Linear.*, and its shared_parameters\(\) do not have that layer's weight",
        (),
    ),
    (
        "last_shared_layer_is_shared_by_all",
        broken.NamesNoLayer,
        r"answered last_shared_layer\(\) with no layer\. Return the last layer",
        ("every_strategy_can_weigh_it",),
    ),
    (
        "every_strategy_can_weigh_it",
        broken.HasNoGradientAtZero,
        r"trained with the strategy \w+, had NaN or infinite gradients",
        (),
    ),
    (
        "evaluation_mode_reaches_every_layer",
        having(broken.StaysInTrainingMode),
        r"put in evaluation mode, and encoder, .* stayed in training mode",
        (),
    ),
    ("evaluation_is_deterministic", having(broken.Remembers), r"different features of the same rows .* apart", ()),
    ("evaluation_draws_no_random_numbers", having(broken.DrawsInEvaluation), "changed torch's global random", ()),
    ("rows_are_independent_in_evaluation", having(broken.CentresTheBatch), "same row beside other rows .* apart", ()),
    ("rows_are_apart_where_it_says_so", broken.CentresTheTasks, "same row beside other rows in training mode", ()),
    ("rows_are_not_changed", having(broken.WritesToItsRows), "changed the rows that it was given, in training", ()),
    ("state_goes_through_a_checkpoint", having(broken.HidesState), "another one of another seed.*register_buffer", ()),
    ("the_same_seed_gives_the_same_weights", having(broken.SeedsItself), "weights each time.*the same seed", ()),
    ("construction_leaves_random_state_alone", having(broken.DrawsFromPython), "changed Python's global random", ()),
    ("construction_leaves_random_state_alone", having(broken.SeedsTorch), "seeded torch's global random gener", ()),
    ("float64_is_kept", broken.AnswersInFloat32, r"dtype torch\.float32 after \.double\(\)", ()),
    ("copies_stand_alone", having(broken.HoldsAClosure), "features once the original was changed", ()),
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
        (broken.RefusesEveryEncoder, r"takes no sort of encoder; it said: encoders must be recurrent\. An archit"),
        (broken.AsksForMore, r"takes depth, which no run has to give\. What it is given is called make_encoder"),
        (broken.ReturnsOneTensor, r"forward\(\) returned Tensor\. Return a list with one tensor"),
    ],
)
def test_where_nothing_can_be_tried_every_check_says_why(component, said):
    for check in CHECKS:
        with pytest.raises(Nonconformance, match=said):
            check.run(Subject.of(component))


def test_the_features_of_other_tasks_than_those_asked_for_are_found():
    with pytest.raises(Nonconformance, match=r"returned 2 tensors when it was asked for the tasks \[0\]"):
        BY_NAME["features_are_what_it_says"].run(Subject.of(broken.ReturnsAllTasks))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize(
    ("component", "settings"),
    [
        (HardSharing, {}),
        (HardSharing, {"inputs": [InputSpec((3, 2)), InputSpec((2, 5, 4))]}),
        (broken.PlainArchitecture, {}),
        (broken.AveragesTwo, {}),
        (broken.SharesSoftly, {"options": {"own": 0.8}}),
    ],
)
def test_a_sound_architecture_passes(check, component, settings):
    check.run(Subject.of(component, **settings))


BUILTIN = [name for kind, name, _ in BUILTINS if kind == "architectures"]


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize(
    "check", [each for each in CHECKS if each.name != "every_strategy_can_weigh_it"], ids=lambda check: check.name
)
def test_one_that_ships_passes(check, name):
    row = (1, 6, 6) if name == "task-embedding" else (4,)  # an mlp encoder has no normalisation
    check.run(Subject.of(f"mtlkit:{name}", kind="architectures", inputs=[InputSpec(row)]))


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_one_that_ships_passes_on_images_too_and_with_every_strategy(check, name):
    check.run(Subject.of(f"mtlkit:{name}", kind="architectures"))


def test_the_checks_leave_random_state_alone():
    before = RandomStates.now()
    for check in CHECKS:
        check.run(Subject.of(HardSharing))
        assert before.changed() == []
