"""The kit finds every defect that a strategy may have, and lets pass what is only odd.

That all built-in strategies pass is shown in tests/unit/test_strategy_properties.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from mtlkit.strategies import Fixed, GradNorm
from mtlkit.testing import Nonconformance
from mtlkit.testing.probes import RandomStates
from mtlkit.testing.strategies import CHECKS
from mtlkit.testing.subject import Subject

SPEC = importlib.util.spec_from_file_location("broken_strategies", Path(__file__).with_name("broken_strategies.py"))
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


# check, what has the defect, what is said of it, and the checks that cannot but fail with it
DEFECTS = [
    ("what_it_needs_is_declared", broken.NeedsNoPlace, "needs gramian, and over is None. Say where", ()),
    ("what_it_needs_is_declared", broken.PlacesNoNeed, "needs losses alone, and over is <Over.FEATURES", ()),
    ("what_it_needs_is_declared", broken.NeedsSomethingElse, "needs is 'gramian'. Set needs = mtlkit.Needs.LOS", ()),
    ("each_task_present_has_a_weight", broken.AnswersInFloat32, r"7 of 7 tasks returned .* torch\.float32 on cpu", ()),
    ("each_task_present_has_a_weight", broken.PenalisesEach, "returned the penalty tensor", ()),
    (
        "each_task_present_has_a_weight",
        broken.WeighsNothing,
        r"2 of 7 tasks returned the weights \[0, 0\]\. Weights",
        (),
    ),
    ("no_tasks_are_refused", broken.WeighsNoTasks, r"was constructed for no task\. Call super\(\)", ()),
    ("no_tasks_are_refused", broken.FailsWithoutTasks, "for 0 tasks, raised ZeroDivisionError", ()),
    (
        "gradients_are_the_weighted_sum",
        broken.WeighsAbsentTasks,
        r"with the tasks \[3, 0, 2\] present, of losses .* raised ValueError",
        (
            "each_task_present_has_a_weight",
            "one_task_is_plain_training",
            "absent_tasks_are_left_alone",
            "evaluation_changes_no_state",
        ),
    ),
    (
        "permuting_the_tasks_permutes_the_weights",
        broken.PrefersTheFirst,
        r"in the order \[3, 2, 1, 0\] the last weights are \[2, 1, 1, 1\], and .*expected_failures",
        (),
    ),
    (
        "tasks_are_told_by_their_numbers",
        broken.GoesByPlace,
        r"For the tasks \[3, 1, 0, 2\] it answered \[14, 10, 7, 14\], .*expected_failures",
        (),
    ),
    ("one_task_is_plain_training", broken.NeedsCompany, "A single task, of kind classif.* the weight 0.0. Alone", ()),
    ("one_task_is_plain_training", broken.RefusesOneTask, "refuses a single task: one task cannot be balanced", ()),
    (
        "equal_tasks_have_finite_weights",
        broken.DividesByDifferences,
        r"weights\(\) answered what is no number with all tasks present.*Non-finite weight of task 0 \(inf\), task 1",
        (),
    ),
    (
        "conflicting_gradients_have_finite_weights",
        broken.DividesByTheSum,
        r"gradients that are opposite and equally long, .*answered \[inf, inf\]",
        (),
    ),
    (
        "every_scale_has_finite_weights",
        broken.DividesByLosses,
        r"For the losses \[0, 0, 0\] and parallel gradients of the norms .* answered \[inf, inf, inf\]",
        ("gradients_stay_finite_in_float32",),
    ),
    ("every_scale_has_finite_weights", broken.RemembersInfinity, "its state has an infinity in rates", ()),
    ("gradients_stay_finite_in_float32", broken.LeavesFloat32, "of task 1 times 1e-30 a gradient left float32", ()),
    (
        "a_restored_run_goes_on_bit_for_bit",
        broken.CountsInPython,
        "After a checkpoint the weights went on as .* apart",
        (),
    ),
    ("a_restored_run_goes_on_bit_for_bit", broken.HidesWhatMovesIt, "its state went on otherwise in seen", ()),
    (
        "a_restored_run_goes_on_bit_for_bit",
        broken.KeepsObjects,
        "loaded from it, raised TypeError: A checkpoint cannot hold a complex",
        (),
    ),
    ("state_is_in_float64", broken.RemembersInFloat32, r"than float64 in mean \(torch\.float32\)", ()),
    (
        "absent_tasks_are_left_alone",
        broken.ForgetsAll,
        r"With the tasks \[0\] of 7 present, weights\(\) changed mean of the absent tasks 1, 2, 3",
        (),
    ),
    (
        "absent_tasks_are_left_alone",
        broken.LearnsInOnePiece,
        "the step after it changed scales of the absent tasks 1, 2, .*nn.ParameterList",
        (),
    ),
    (
        "absent_tasks_are_left_alone",
        broken.LearnsFromAbsentTasks,
        r"the step after it changed scales\.1 of the absent tasks 1\.",
        (),
    ),
    (
        "evaluation_changes_no_state",
        broken.CountsEvaluations,
        r"evaluation mode weights\(\) changed steps\. Update",
        (),
    ),
    ("what_it_is_given_is_not_changed", broken.WritesToLosses, r"weights\(\) changed its argument losses", ()),
    ("what_it_is_given_is_not_changed", broken.WritesToTheGramian, r"weights\(\) changed its argument gramian", ()),
    ("what_it_is_given_is_not_changed", broken.WritesToSlopes, r"foresee\(\) changed its argument slopes", ()),
    ("global_random_state_is_left_alone", broken.DrawsGlobally, "changed torch's global .* in training mode", ()),
    ("global_random_state_is_left_alone", broken.DrawsFromPython, "The strategy changed Python's global random", ()),
    ("the_same_seed_gives_the_same_weights", broken.BeginsAnywhere, "Built twice from the same seed", ()),
    ("what_it_learns_is_not_decayed", broken.Decays, "has no weight_decay", ()),
    ("what_it_learns_is_not_decayed", broken.DecaysALittle, "has weight_decay 0.01", ()),
    ("what_it_learns_is_trained", broken.LearnsNothing, r"gives no gradient to scales\.0, scales\.1, scales\.2", ()),
    ("what_it_learns_is_trained", broken.LearnsElsewhere, r"that are none of its parameters\(\)", ()),
    (
        "what_it_looks_ahead_to_is_declared",
        broken.LooksAheadPerhaps,
        "looks_ahead is 'yes'. Set looks_ahead = True",
        (),
    ),
    (
        "what_it_looks_ahead_to_is_declared",
        broken.TriesThemAll,
        r"trial\(\) for 3 of 7 tasks returned .* of shape \[K\], here K = 3",
        (
            "gradients_are_the_weighted_sum",
            "one_task_is_plain_training",
            "absent_tasks_are_left_alone",
            "evaluation_changes_no_state",
        ),
    ),
    (
        "what_it_looks_ahead_to_is_declared",
        broken.AsksOfThemAll,
        r"objectives\(\) for 3 of 7 tasks returned .* of shape \[M, K\], here K = 3",
        (
            "each_task_present_has_a_weight",
            "gradients_are_the_weighted_sum",
            "one_task_is_plain_training",
            "absent_tasks_are_left_alone",
            "evaluation_changes_no_state",
            "what_it_is_given_is_not_changed",
        ),
    ),
    (
        "what_it_looks_ahead_to_is_declared",
        broken.CountsTrials,
        r"trial\(\) or objectives\(\) changed its state in trials\. They only tell",
        (),
    ),
    (
        "an_outlook_that_is_not_finite_leaves_it_finite",
        broken.LearnsFromNaN,
        r"After foresee\(\) of a slope of nan its state is not finite in ones\. Leave",
        (),
    ),
    (
        "a_step_that_led_to_nan_leaves_it_finite",
        broken.WatchesNaN,
        r"After observe\(\) of a loss of nan its state is not finite in ones\. Leave",
        (),
    ),
    ("nothing_is_printed", broken.Prints, r"The strategy printed '3 losses.*use logging", ()),
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
        (
            broken.RefusesAll,
            r"refuses 3 tasks, or 7, of whatever kinds of loss; it said: there must be exactly 2 tasks",
        ),
        (broken.CannotBeBuilt, r"constructor, for \d tasks?, raised KeyError: 'lambda'"),
        (broken.AsksForMore, "takes batch_size, which no run has to give. What it is given is called n_tasks"),
    ],
)
def test_where_nothing_can_be_tried_every_check_says_why(component, said):
    for check in CHECKS:
        with pytest.raises(Nonconformance, match=said):
            check.run(Subject.of(component))


@pytest.mark.parametrize(
    ("component", "said"),
    [
        (broken.AnswersATensor, r"weights\(\) of the losses .* returned Tensor\. Return mtlkit\.Weighting\(weights\)"),
        (broken.AnswersForOneMore, r"weights\(\) for 7 of 7 tasks returned weights of shape \(8,\)\. Return one for"),
        (broken.WeighsHeadsInfinitely, r"weights\(\) for 7 of 7 tasks returned the head_weights \[inf, inf, .*finite"),
        (broken.DirectsHalf, r"returned the direction .* for gradients of 14 parameters\. Return a finite gradient of"),
        (broken.CannotWeigh, r"weights\(\) of the losses .* raised ZeroDivisionError: division by zero"),
    ],
)
def test_an_answer_that_is_none_is_told_of_and_fails_in_no_other_way(component, said):
    with pytest.raises(Nonconformance, match=f"(?s){said}"):
        BY_NAME["each_task_present_has_a_weight"].run(Subject.of(component))
    assert "gradients_are_the_weighted_sum" in failing(Subject.of(component))


def test_one_that_steps_as_it_is_backpropagated_is_applied_as_it_answered():
    assert "gradients_are_the_weighted_sum" not in failing(Subject.of(broken.StepsByItself))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize(
    ("component", "options"),
    [
        (broken.Plain, {}),
        (broken.Measured, {}),
        (broken.Learned, {}),
        (broken.Opposes, {}),
        (broken.KeepsHistory, {}),
        (broken.ElectsSigns, {}),
        (broken.TrainsHeadsPlainly, {}),
        (broken.Watches, {}),
        (broken.LooksAhead, {}),
        (broken.WeighsClasses, {"factors": [1.0, 3.0, 0.5]}),
    ],
)
def test_a_sound_strategy_passes(check, component, options):
    check.run(Subject.of(component, options=options))


def test_a_parameter_that_is_to_be_learned_twice_is_found():
    with pytest.raises(Nonconformance, match="has a parameter in it twice"):
        BY_NAME["what_it_learns_is_trained"].run(Subject.of(broken.LearnsTwice))
    with pytest.raises(Nonconformance, match=r"given to torch\.optim\.Adam, raised ValueError: some parameters appear"):
        BY_NAME["gradients_are_the_weighted_sum"].run(Subject.of(broken.LearnsTwice))


def test_a_strategy_that_draws_random_numbers_fails_the_checks_that_say_so_alone():
    found = failing(Subject.of(broken.DrawsLots))
    assert found == {"permuting_the_tasks_permutes_the_weights", "tasks_are_told_by_their_numbers"}


def test_an_option_that_holds_a_value_for_each_task_goes_with_the_task():
    from mtlkit.testing.strategies import maker_of

    maker = maker_of(Subject.of(Fixed, options={"alpha": [1.0, 2.0, 4.0]}))
    assert maker([2, 0, 4]).alpha.tolist() == [4.0, 1.0, 2.0]


def test_the_checks_leave_random_state_alone():
    before = RandomStates.now()
    for check in CHECKS:
        check.run(Subject.of(GradNorm))
        assert before.changed() == []
