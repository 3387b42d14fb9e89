"""The kit finds every defect that a task may have, and lets pass what is only odd."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from mtlkit.testing import Nonconformance, checks_of
from mtlkit.testing.probes import RandomStates
from mtlkit.testing.subject import Subject
from mtlkit.testing.tasks import CHECKS

BY_NAME = {check.name: check for check in CHECKS}
ODD = [
    "HalfLabelledColour",
    "HalfLabelledPrice",
    "SoftColour",
    "Segmentation",
    "Weighted",
    "OneMetric",
    "OneByOne",
    "Noisy",
    "Poured",
]
REST = ...  # a defect that leaves little to be tested

# check, the class that has the defect, what is said of it, and the checks that cannot but fail with it
DEFECTS = [
    ("splits_hold_a_train_split", "Crashes", "Its constructor raised KeyError: 'grapes'", REST),
    ("splits_hold_a_train_split", "NoSource", r"source\(\) returned type\. Return an instance", REST),
    ("splits_hold_a_train_split", "List", r"splits\(\) returned list\. Return {'train'", REST),
    ("splits_hold_a_train_split", "Pair", r"splits\(\) returned tuple for 'train'", REST),
    ("splits_hold_a_train_split", "NoTrain", r"splits\(\) returned 'test'\. Return {'train'", REST),
    ("splits_can_be_completed", "AnotherName", "optionally 'validation' and 'test'; received 'train', 'dev'", ()),
    ("splits_can_be_completed", "Few", "1 training rows are too few to carve validation from", ()),
    (
        "splits_are_disjoint",
        "Leak",
        "3 of the 16 rows of 'test' are in 'train' too.*expected_failures={'splits_are_disjoint'",
        (),
    ),
    (
        "splits_are_the_same_each_time",
        "Drift",
        r"called twice, returned others: the inputs of 'test'\. Draw from a generator that splits\(\) makes",
        (),
    ),
    (
        "splits_hold_a_train_split",
        "Spilled",
        r"Row 9 of 'train' has the input of shape \(3,\), and in the first row",
        REST,
    ),
    (
        "splits_are_the_same_each_time",
        "Cloudy",
        r"the inputs of 'train', the inputs of 'test'\. .*MapSplit\(\.\.\., random=True\)",
        ("other_processes_load_the_same_rows",),
    ),
    ("random_state_is_left_alone", "Shaken", "Reading its rows changed torch's global random state", ()),
    (
        "streams_begin_at_any_row",
        "FromTheTop",
        "The stream of 'train', begun at row 1, goes on with other rows than those that follow there",
        (),
    ),
    (
        "other_processes_load_the_same_rows",
        "Hash",
        r"A new process, given the name Hash and the same options, loaded others: the inputs of 'train'\. Rows depend",
        (),
    ),
    (
        "other_processes_load_the_same_rows",
        "Registered",
        "could not load the rows: LookupError: the cellar is not open",
        (),
    ),
    ("equal_options_make_equal_sources", "Identity", "equal options have sources that are not equal", ()),
    ("equal_options_make_equal_sources", "Anything", r"is equal to object\(\)", ()),
    ("inputs_are_finite", "NaN", "1 of the 16 rows of 'test' have inputs that are NaN or infinite", ()),
    (
        "target_is_in_every_split",
        "HalfAColumn",
        "learns the target column 'price', and split 'test' has 'colour'",
        ("splits_can_be_completed",),
    ),
    ("target_is_in_every_split", "NoColumn", "target column 'vintage', and split 'train' has 'colour', 'price'", REST),
    ("loss_kind_is_known", "LossKind", "Its loss_kind is 'mse'.*'regression', 'laplace'", ()),
    ("n_classes_fits_the_loss_kind", "Uncounted", "is 'classification', and its n_classes is not set", ()),
    ("n_classes_fits_the_loss_kind", "OneClass", "Its n_classes is 1.*2 or more", ("targets_are_classes",)),
    ("targets_are_classes", "ThirdClass", "of 'train' are from 0 to 2, and n_classes is 2.*from 0 to 1", ()),
    (
        "rows_without_a_label_are_told",
        "AllLabelled",
        r"labelled\(\) says that 48 of 48 rows of -100, the task's 'missing' have a label",
        (),
    ),
    ("rows_without_a_label_are_told", "AllOrNothing", "wrong about 24 of 48 rows, of which every other is -100", ()),
    (
        "rows_without_a_label_are_told",
        "LabelColumn",
        r"labelled\(\) returned torch.bool of shape \(48, 1\).*Return booleans of shape \(48,\)",
        REST,
    ),
    ("rows_without_a_label_are_told", "Unlabelled", "no training row has a label", REST),
    ("heads_are_new_each_time", "OneHead", "called twice, returned the same module", ()),
    ("heads_are_new_each_time", "SharedHead", "returned modules that share 0.weight, 0.bias", REST),
    ("heads_of_one_seed_are_equal", "Unseeded", r"Two heads of one seed are different: output\.weight", ()),
    ("heads_are_deterministic_in_evaluation", "Restless", "different outputs of the same features", ()),
    ("head_state_is_complete", "Stateful", "other outputs once its state was loaded into another one", ()),
    ("head_fits_the_loss", "NoHead", r"head\(\) returned NoneType\. Return a torch module", REST),
    ("head_fits_the_loss", "NarrowHead", r"loss\(\), given an output of shape \(48, 1\) .* raised IndexError", REST),
    ("head_fits_the_loss", "PairHead", "The head made tuple", REST),
    (
        "head_fits_the_loss",
        "WideHead",
        r"given an output of shape \(48, 3\) and targets of shape \(48, 1\) .* raised UserWarning: Using a target size",
        ("one_row_is_enough", "metrics_compute_numbers", "metrics_begin_anew"),
    ),
    (
        "loss_is_a_finite_scalar",
        "VectorLoss",
        r"loss\(\) returned shape \(48, 1\) for an output of shape \(48, 1\) .*reduction='mean'",
        ("loss_is_a_mean_over_rows", "gradients_reach_head_and_features", "one_row_is_enough"),
    ),
    (
        "loss_is_a_finite_scalar",
        "FloatLoss",
        r"loss\(\) returned float \d",
        ("loss_is_a_mean_over_rows", "gradients_reach_head_and_features", "one_row_is_enough"),
    ),
    ("loss_is_a_finite_scalar", "NaNLoss", "The loss of 48 training rows is nan", REST),
    ("loss_is_a_mean_over_rows", "SumLoss", r"The loss of 48 rows is .*, and with each of them twice .*'mean'", ()),
    (
        "row_losses_make_up_the_loss",
        "OtherRows",
        r"The loss of all rows is .*, and the mean of what row_losses\(\) says of them",
        (),
    ),
    ("row_losses_make_up_the_loss", "MeanRows", r"row_losses\(\) returned \[\] for two .* \[48, 2, 1\].*\[B, K\]", ()),
    ("row_losses_make_up_the_loss", "BatchRows", r"The loss of (all|some) rows is", ()),
    ("gradients_reach_head_and_features", "DetachedLoss", "depends on nothing that can be trained", ()),
    ("gradients_reach_head_and_features", "DetachedHead", "No gradient of the loss reaches the features", ()),
    ("gradients_reach_head_and_features", "IdleHead", "does not depend on: idle.weight, idle.bias. Use them", ()),
    ("gradients_reach_head_and_features", "DeadHead", "The gradient of the loss is zero, at the features and", ()),
    (
        "one_row_is_enough",
        "NormHead",
        r"The head, in training mode on features of shape \(1, 16\), raised ValueError: Expected more than 1 value",
        (),
    ),
    (
        "one_row_is_enough",
        "Crowd",
        r"The metric 'seen', updated with an output of shape \(1, 2\) .* raised IndexError: one row",
        (),
    ),
    ("one_row_is_enough", "DeviationLoss", "The loss of one row is inf", ()),
    ("metrics_are_of_torchmetrics", "NumberMetric", r"metrics\(\) returned float for 'accuracy'", REST),
    ("metrics_are_of_torchmetrics", "NoMetric", r"metrics\(\) returned no metric", REST),
    ("metrics_are_of_torchmetrics", "NumberedMetric", "returned metrics by the names 1. A name is a text", ()),
    ("headline_has_a_direction", "Undirected", "first metric, 'seen', has None as its higher_is_better", ()),
    (
        "metrics_compute_numbers",
        "ByClass",
        "The metric 'accuracy', computed as one number, raised",
        ("metrics_begin_anew",),
    ),
    ("metrics_compute_numbers", "NaNMetric", "The metric 'nothing' of 48 training rows is nan", ()),
    ("metrics_begin_anew", "Remembers", r"is 48, after reset\(\) 144, and called for again 48.*add_state", ()),
    ("it_can_be_sent_to_a_process", "Closure", "Pickling its source, a Rows, raised", ()),
    ("it_can_be_sent_to_a_process", "Hidden", "Pickling the class Renamed raised", ()),
    ("random_state_is_left_alone", "PythonSeed", "Its constructor changed Python's global random state", ()),
    ("random_state_is_left_alone", "NumpySeed", r"splits\(\) changed NumPy's global random state.*default_rng", ()),
    ("random_state_is_left_alone", "TorchSeed", "The head seeded torch's global random generator", ()),
    ("random_state_is_left_alone", "RandomLoss", r"loss\(\), given .* changed torch's global random state", ()),
    ("nothing_is_printed", "Prints", r"splits\(\) printed 'loading 64 bottles\\n'", ()),
    ("nothing_is_printed", "Warns", r"metrics\(\) printed 'metrics\\n'", ()),
]


@pytest.fixture(scope="module", autouse=True)
def broken():
    """The module of broken tasks, imported by its own name, as another process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield importlib.import_module("broken_tasks")
    sys.modules.pop("broken_tasks")


def failures(subject, checks=CHECKS):
    found = {}
    for check in checks:
        try:
            check.run(subject)
        except Nonconformance as failure:
            found[check.name] = str(failure)
    return found


@pytest.mark.parametrize(("name", "defect", "message", "also"), DEFECTS)
def test_a_defect_is_found(broken, name, defect, message, also):
    subject = Subject.of(getattr(broken, defect))
    with pytest.raises(Nonconformance, match=message):
        BY_NAME[name].run(subject)
    found = failures(subject)
    if also is not REST:
        assert found.keys() == {name, *also}


def test_every_check_has_a_defect():
    assert {name for name, *_ in DEFECTS} == BY_NAME.keys()


@pytest.mark.parametrize("name", ["Colour", "Price", *ODD])
def test_what_is_sound_passes(broken, name):
    subject = Subject.of(getattr(broken, name))
    before = RandomStates.now()
    assert failures(subject, checks_of("tasks")) == {}
    assert before.changed() == []


def test_a_class_that_no_one_can_import_passes(broken):
    class Local(broken.Colour):
        """Sound, and known nowhere else."""

    assert failures(Subject.of(Local)).keys() == {"it_can_be_sent_to_a_process"}


def test_options_are_those_that_are_given(broken):
    given = Subject.of(broken.Weighted, options={"weights": (1.0, 2.0, 3.0)})
    assert "weight" in failures(given)["head_fits_the_loss"]


def test_it_runs_under_errors_for_warnings(broken):
    class Warning_(broken.Colour):  # noqa: N801 - a name that is not taken
        """A loss that warns."""

        def loss(self, output, target):
            import warnings

            warnings.warn("this loss is old", stacklevel=2)
            return super().loss(output, target)

    assert failures(Subject.of(Warning_)).keys() == {"it_can_be_sent_to_a_process"}


class TestInstalled:
    @pytest.mark.parametrize("task", ["colour", "price"])
    def test_what_is_sound_passes(self, acme, task):
        acme("colour", "price", requires=["mtlkit>=0.1,<0.2"])
        assert failures(Subject.of(f"acme-mtl:{task}"), checks_of("tasks")) == {}
