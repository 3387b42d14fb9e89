"""From names to built objects: everything that is wrong is told at once and placed; what is built is what was asked."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch

import mtlkit
from mtlkit.assemble import build
from mtlkit.encoders import MLP
from mtlkit.errors import ConfigError, DataError, MtlkitError, PluginError
from mtlkit.registry import Registry
from mtlkit.resolve import resolve
from mtlkit.yamlfile import dump, parse

SMALL = {"encoder": {"name": "mlp", "layers": [8]}, "training": {"steps": 3, "device": "cpu", "batch_size": 8}}


@pytest.fixture
def built(acme):
    """Return a function that builds an experiment of the tasks named, with other settings beside them."""

    def assemble(*tasks, **settings) -> mtlkit.Experiment:
        names = [(task if isinstance(task, str) else task["name"]).removeprefix("acme-mtl:") for task in tasks]
        acme(*dict.fromkeys(names))
        return mtlkit.build({"tasks": list(tasks), **SMALL, **settings})

    return assemble


@pytest.fixture
def problems(acme):
    """Return a function that gives the problems of a text whose tasks are those of acme, as (what, location)."""

    def refused(text: str, *installed: str) -> list[tuple[str, str]]:
        acme(*(installed or ("colour", "price")))
        with pytest.raises(ConfigError) as caught:
            build(resolve(parse(text, "run.yaml"), Registry.discover()))
        return [(problem.what, problem.location) for problem in caught.value.problems]

    return refused


class TestEverythingAtOnce:
    def test_all_problems_are_told_in_the_order_of_the_text(self, problems):
        text = """\
tasks:
  - name: colour
    wieght: 2
  - name: prize
  - name: price
    options: {width: 3}
  - name: price
encoder: {name: mlp, layres: [8]}
strategy: {name: gradnorm, alpha: -1}
optimizer: {name: adamm}
training: {epochs: 0, device: 'cuda:99'}
checkpoints: {best: colr/accuracy}
"""
        assert problems(text) == [
            ("Unknown key 'wieght'", "run.yaml:3:5"),
            ("Unknown task 'prize'", "run.yaml:4:11"),
            ("Unknown key 'width'", "run.yaml:6:15"),
            ("Two tasks are called 'price'", "run.yaml:7:5"),
            ("Unknown key 'layres'", "run.yaml:8:22"),
            ("Cannot use -1 (integer)", "run.yaml:9:35"),
            ("Unknown optimizer 'adamm'", "run.yaml:10:19"),
            ("Cannot use 0 (integer)", "run.yaml:11:20"),
            ("No task is called 'colr'", "run.yaml:12:21"),
        ]

    def test_an_unknown_hook_is_told_beside_a_wrong_shape(self, problems):
        assert problems("tasks: [colour]\ntraining: {epochs: 0}\nhooks: [tracker]\n") == [
            ("Cannot use 0 (integer)", "run.yaml:2:20"),
            ("Unknown plugin 'tracker'", "run.yaml:3:9"),
        ]

    def test_an_unavailable_device_is_told_beside_other_problems(self, problems):
        if torch.cuda.device_count() > 99:
            pytest.skip("this machine has it")
        text = "tasks: [colour]\nencoder: tree\ntraining: {device: 'cuda:99'}\n"
        assert problems(text) == [
            ("Unknown encoder 'tree'", "run.yaml:2:10"),
            ("The device 'cuda:99' is not available on this machine", "run.yaml:3:20"),
        ]

    def test_a_short_form_is_placed_too(self, problems):
        text = "tasks: [colur]\nencoder: tree\nstrategy: fixd\noptimizer: adm\narchitecture: soft\n"
        found = problems(text)
        assert [what.split("'")[1] for what, _ in found] == ["colur", "tree", "fixd", "adm", "soft"]
        assert [place for _, place in found] == [
            "run.yaml:1:9",
            "run.yaml:2:10",
            "run.yaml:3:11",
            "run.yaml:4:12",
            "run.yaml:5:15",
        ]

    def test_only_plugins_missing_is_the_fault_of_no_configuration(self, acme):
        acme("colour")
        with pytest.raises(PluginError) as caught:
            mtlkit.build({"tasks": ["colour", "nowhere-one:a", "nowhere-two:b"], **SMALL})
        assert "pip install nowhere-one" in str(caught.value)
        assert "pip install nowhere-two" in str(caught.value)

    def test_a_missing_plugin_is_told_beside_other_problems(self, problems):
        found = problems("tasks: ['nowhere-one:a', colour]\nencoder: tree\n")
        assert "pip install nowhere-one" in found[0][0]
        assert found[0][1].endswith(":1:9")
        assert found[1][0] == "Unknown encoder 'tree'"


class TestTasks:
    def test_labels(self, built):
        experiment = built({"name": "acme-mtl:colour"}, {"name": "price", "label": "cost"})
        assert experiment.labels == ["colour", "cost"]
        assert experiment.model.labels == ("colour", "cost")

    def test_one_task_may_take_part_twice(self, built):
        experiment = built({"name": "colour"}, {"name": "colour", "label": "again", "options": {"smoothing": 0.5}})
        assert [bound.task.smoothing for bound in experiment.tasks] == [0.0, 0.5]
        assert len(experiment.groups) == 1

    def test_a_label_twice_is_refused(self, problems):
        text = "tasks:\n  - {name: colour, label: a}\n  - {name: price, label: a}\n"
        assert problems(text) == [("Two tasks are called 'a'", "run.yaml:3:5")]

    def test_weights(self, built):
        experiment = built({"name": "colour", "weight": 0.5}, "price")
        assert [bound.weight for bound in experiment.tasks] == [0.5, 1.0]

    def test_who_provides_them(self, built):
        (bound,) = built("colour").tasks
        assert bound.provider == "acme-mtl 1.2, entry point mtlkit.tasks: colour = acme:colour"

    def test_options_reach_them(self, built):
        (bound,) = built({"name": "colour", "options": {"width": 6}}).tasks
        assert bound.task.width == 6

    @pytest.mark.parametrize("smoothing", ["1", "-0.1", ".nan", "true", "'0'"])
    def test_options_are_checked(self, problems, smoothing):
        text = f"tasks:\n  - name: colour\n    options: {{smoothing: {smoothing}}}\n"
        ((what, place),) = problems(text)
        assert what.startswith("Cannot use")
        assert place == "run.yaml:3:26"

    def test_one_that_refuses_its_options(self, problems):
        text = "tasks:\n  - {name: refuses, options: {bottles: 0}}\n"
        assert problems(text, "refuses") == [("Bottles must be positive; received 0", "run.yaml:2:30")]

    @pytest.mark.parametrize(
        ("task", "error", "message"),
        [
            ("crashes", PluginError, "KeyError: 'grapes'"),
            ("no-head", PluginError, "The head of task 'no-head' is no torch module"),
            ("no-file", PluginError, "The source of task 'no-file' failed"),
            ("missing-column", PluginError, "learns the target column 'vintage', and split 'train' of its source has"),
            ("unlabelled", DataError, "Task 'unlabelled' has no labelled training row"),
        ],
    )
    def test_one_that_does_not_work_is_told_with_its_provider(self, built, task, error, message):
        with pytest.raises(error) as caught:
            built(task)
        assert message in str(caught.value)
        assert f"acme-mtl 1.2, entry point mtlkit.tasks: {task} = acme:{task.replace('-', '_')}" in str(caught.value)

    def test_a_constructor_that_wants_what_is_not_supplied(self, install):
        module = "import mtlkit\nclass T(mtlkit.Task):\n    def __init__(self, seed: int): ...\nt = mtlkit.plugin(T)\n"
        install("acme", entry_points={"tasks": {"wine": "acme_t:t"}}, modules={"acme_t": module})
        with pytest.raises(PluginError) as caught:
            mtlkit.build({"tasks": ["wine"], **SMALL})
        assert "The constructor of 'wine' (acme 1.0" in str(caught.value)
        assert "takes 'seed' before its options, and what is supplied to tasks is: none" in str(caught.value)


class TestSources:
    def test_equal_sources_share_one_group(self, built):
        experiment = built("colour", "price", {"name": "colour", "label": "c2", "options": {"width": 4}})
        assert [group.tasks for group in experiment.groups] == [(0, 1, 2)]
        assert experiment.groups[0].complete

    def test_other_sources_have_groups_of_their_own(self, built, install):
        module = (
            "import acme, mtlkit\nfrom dataclasses import dataclass\n"
            "@dataclass(frozen=True)\nclass Other(acme.Cellar):\n    pass\n"
            "class Late(acme.Price):\n    def source(self): return Other()\n"
            "late = mtlkit.plugin(Late)\n"
        )
        install("late-mtl", entry_points={"tasks": {"late": "acme_late:late"}}, modules={"acme_late": module})
        built("colour", "price")
        experiment = mtlkit.build({"tasks": ["colour", "late", "price"], **SMALL})
        assert [group.tasks for group in experiment.groups] == [(0, 2), (1,)]

    def test_splits_are_carved_as_the_configuration_says(self, built):
        (group,) = built("colour", evaluation={"validation": 0.25, "test": 0.5}).groups
        assert {name: len(split) for name, split in group.splits.items()} == {"train": 10, "validation": 10, "test": 20}

    def test_batch_sizes(self, built):
        experiment = built({"name": "colour", "batch_size": 4}, {"name": "price", "batch_size": 4})
        assert experiment.groups[0].stream.batch_size == 4
        assert built("colour").groups[0].stream.batch_size == 8

    def test_different_batch_sizes_of_one_source_are_refused(self, problems):
        text = "tasks:\n  - {name: colour, batch_size: 4}\n  - {name: price, batch_size: 5}\n"
        ((what, place),) = problems(text)
        assert "colour 4, price 5" in what
        assert place == "run.yaml:3:31"

    def test_rows_of_different_shapes_are_refused(self, built):
        with pytest.raises(DataError) as caught:
            built("price", {"name": "colour", "options": {"width": 5}})
        assert "'price': (4,)" in str(caught.value)
        assert "'colour': (5,)" in str(caught.value)

    def test_fractions_that_leave_no_training_row(self, problems):
        text = "tasks: [colour]\nevaluation: {validation: 0.6, test: 0.6}\n"
        assert problems(text)[0][1].startswith("run.yaml:2:")

    @pytest.mark.parametrize(
        "splits",
        [
            "None",
            "{'train': 3}",
            "{'test': mtlkit.Split([[1.0]], {'price': [[1.0]]})}",
            "{'train': mtlkit.Split([[1.0]], {'price': [[1.0]]}), 'dev': mtlkit.Split([[1.0]], {'price': [[1.0]]})}",
            "{'train': mtlkit.Split([[1.0]], {'price': [[1.0]]})}",
            "{'train': mtlkit.Split([[1.0]] * 9, {'price': [[1.0]]})}",
        ],
    )
    def test_splits_that_cannot_be_used_are_told_with_their_provider(self, install, acme, splits):
        acme("price")
        module = (
            "import acme, mtlkit\nfrom dataclasses import dataclass\n"
            f"@dataclass(frozen=True)\nclass Torn(mtlkit.Source):\n    def splits(self): return {splits}\n"
            "class Task(acme.Price):\n    def source(self): return Torn()\n"
            "torn = mtlkit.plugin(Task)\n"
        )
        install("torn-mtl", "0.9", entry_points={"tasks": {"torn": "acme_torn:torn"}}, modules={"acme_torn": module})
        with pytest.raises((DataError, PluginError)) as caught:
            mtlkit.build({"tasks": ["torn"], **SMALL})
        assert "'torn'" in str(caught.value)
        assert "torn-mtl 0.9" in str(caught.value)


class TestTheSameStart:
    def test_a_task_starts_from_the_same_weights_alone_and_together(self, built):
        together = built("colour", "price")
        for alone in (built("price"), built("price", strategy="gradnorm")):
            head = alone.model.head("price").state_dict()
            assert all(
                torch.equal(value, together.model.head("price").state_dict()[key]) for key, value in head.items()
            )
            encoder = alone.model.architecture.state_dict()
            assert all(torch.equal(v, together.model.architecture.state_dict()[k]) for k, v in encoder.items())

    def test_and_sees_the_same_rows(self, built):
        alone, together = built("price"), built("colour", "price")
        for split in ("train", "validation", "test"):
            assert torch.equal(alone.groups[0].splits[split].inputs, together.groups[0].splits[split].inputs)
        for _ in range(5):
            ours, theirs = alone.groups[0].stream.next(), together.groups[0].stream.next()
            assert torch.equal(ours.inputs, theirs.inputs)

    def test_the_order_of_the_tasks_does_not_matter(self, built):
        forwards, backwards = built("colour", "price"), built("price", "colour")
        for label in ("colour", "price"):
            ours, theirs = forwards.model.head(label).state_dict(), backwards.model.head(label).state_dict()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def test_another_seed_is_another_start_on_the_same_test_rows(self, built):
        one, other = built("price"), built("price", run={"seed": 1})
        assert not torch.equal(one.model.head("price").output.weight, other.model.head("price").output.weight)
        assert not torch.equal(one.groups[0].stream.next().inputs, other.groups[0].stream.next().inputs)
        assert torch.equal(one.groups[0].splits["test"].inputs, other.groups[0].splits["test"].inputs)

    def test_two_tasks_of_one_kind_start_from_different_heads(self, built):
        experiment = built("price", {"name": "price", "label": "cost"})
        weights = [experiment.model.head(label).output.weight for label in ("price", "cost")]
        assert not torch.equal(*weights)

    def test_the_global_random_state_is_left_alone(self, built):
        torch.manual_seed(7)
        before = (torch.get_rng_state(), random.getstate(), np.random.get_state())  # noqa: NPY002
        built("colour", "price", strategy="gradnorm")
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.array_equal(np.random.get_state()[1], before[2][1])  # noqa: NPY002

    def test_nor_does_the_global_random_state_matter(self, built):
        torch.manual_seed(1)
        one = built("colour").model.state_dict()
        torch.manual_seed(2)
        other = built("colour").model.state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)


class TestStrategies:
    @pytest.mark.parametrize("name", ["fixed", "gradnorm", "uncertainty"])
    def test_any_number_of_tasks(self, built, name):
        assert built("colour", strategy=name).strategy.n_tasks == 1
        assert built("colour", "price", strategy=name).strategy.n_tasks == 2

    def test_facts_reach_them(self, built):
        strategy = built("colour", "price", strategy="uncertainty").strategy
        assert strategy.data_factor.tolist() == [1.0, 0.5]
        strategy = built("colour", "price", strategy={"name": "gradnorm", "initial_loss": "log-classes"}).strategy
        assert strategy.initial[0] == pytest.approx(np.log(2))
        assert strategy.initial[1].isnan()

    @pytest.mark.parametrize(
        ("strategy", "installed", "message"),
        [
            ("{name: fixed, alpha: [1]}", "price", "Alpha needs one weight for each of the 2 tasks; received 1"),
            ("{name: uncertainty}", "taste", "Uncertainty weighting needs to know each loss's likelihood"),
        ],
    )
    def test_one_that_refuses_is_placed(self, problems, strategy, installed, message):
        text = f"tasks: [colour, {installed}]\nstrategy: {strategy}\n"
        ((what, place),) = problems(text, "colour", installed)
        assert what.startswith(message)
        assert place == "run.yaml:2:11"

    def test_its_parameters_are_optimized_without_decay(self, built):
        experiment = built(
            "colour", "price", strategy={"name": "uncertainty", "lr": 0.5}, optimizer={"weight_decay": 1.0}
        )
        model, strategy = experiment.optimizer.param_groups
        assert (model["weight_decay"], strategy["weight_decay"]) == (1.0, 0.0)
        assert (strategy["lr"], strategy["initial_lr"]) == (0.5, 0.5)
        assert [id(p) for p in strategy["params"]] == [id(p) for p in experiment.strategy.log_scales]

    def test_an_optimizer_without_decay_takes_them_too(self, built):
        experiment = built("colour", strategy="uncertainty", optimizer="rprop")
        assert len(experiment.optimizer.param_groups) == 2


class TestEncoders:
    def test_options_reach_them(self, built):
        experiment = built("colour", encoder={"name": "mlp", "layers": [8, 6], "activation": "tanh"})
        assert isinstance(experiment.model.architecture.encoder, MLP)
        assert experiment.model.architecture.features.shape == (6,)

    def test_rows_that_do_not_fit_one(self, problems):
        ((what, place),) = problems("tasks: [colour]\nencoder: {name: cnn}\n")
        assert "Cnn takes images of shape (channels, height, width), and a row here has shape (4,)" in what
        assert place == "run.yaml:2:10"

    def test_one_without_features_is_told_with_its_own_provider(self, built, install):
        module = (
            "import mtlkit\nclass Wave(mtlkit.Encoder):\n    def __init__(self, inputs): super().__init__()\n"
            "wave = mtlkit.plugin(Wave)\n"
        )
        install("sea", "0.4", entry_points={"encoders": {"wave": "acme_sea:wave"}}, modules={"acme_sea": module})
        with pytest.raises(PluginError, match=r"sea 0\.4"):
            built("colour", encoder="wave")

    def test_one_that_cannot_take_the_rows_is_no_bug_of_this_program(self, acme):
        acme("raw")
        with pytest.raises(MtlkitError, match="raw"):
            mtlkit.check({"tasks": ["raw"], **SMALL})


class TestOptimizers:
    @pytest.mark.parametrize("name", ["AdamW", "adamw", "ADAMW"])
    def test_names_know_no_case(self, built, name):
        assert isinstance(built("colour", optimizer=name).optimizer, torch.optim.AdamW)

    def test_options_reach_them(self, built):
        optimizer = built("colour", optimizer={"name": "adam", "lr": 0.5, "betas": [0.5, 0.9]}).optimizer
        assert optimizer.defaults["lr"] == 0.5
        assert optimizer.defaults["betas"] == (0.5, 0.9)

    def test_it_holds_every_parameter_once(self, built):
        experiment = built("colour", "price", strategy="uncertainty")
        held = [id(p) for group in experiment.optimizer.param_groups for p in group["params"]]
        wanted = [id(p) for module in (experiment.model, experiment.strategy) for p in module.parameters()]
        assert sorted(held) == sorted(wanted)

    @pytest.mark.parametrize("name", ["lbfgs", "LBFGS", "muon", "sparseadam"])
    def test_those_that_take_no_weighted_step(self, problems, name):
        ((what, place),) = problems(f"tasks: [colour]\noptimizer: {name}\n")
        assert what == f"The optimizer '{name}' cannot be used here"
        assert place == "run.yaml:2:12"

    @pytest.mark.parametrize(
        ("optimizer", "what", "place"),
        [
            ("adamm", "Unknown optimizer 'adamm'", "2:12"),
            ("optimizer", "Unknown optimizer 'optimizer'", "2:12"),
            ("{name: sgd, lr: -1}", "Invalid learning rate: -1", "2:12"),
            ("{name: adam, betas: [2.0, 0.9]}", "Invalid beta parameter at index 0: 2.0", "2:12"),
            ("{name: sgd, lr: fast}", "Cannot use 'fast'", "2:28"),
            ("{name: sgd, betas: [1, 2]}", "Unknown key 'betas'", "2:24"),
        ],
    )
    def test_what_is_refused(self, problems, optimizer, what, place):
        ((received, location),) = problems(f"tasks: [colour]\noptimizer: {optimizer}\n")
        assert received.startswith(what)
        assert location == f"run.yaml:{place}"


class TestTheRest:
    def test_precision(self, built):
        wide = built("colour", "price", training={**SMALL["training"], "precision": "float64"})
        assert {p.dtype for p in wide.model.parameters()} == {torch.float64}
        assert wide.groups[0].splits["train"].inputs.dtype == torch.float64
        narrow = built("colour", training={**SMALL["training"], "precision": "bfloat16"})
        assert {p.dtype for p in narrow.model.parameters()} == {torch.float32}
        assert narrow.plan.autocast is torch.bfloat16

    @pytest.mark.parametrize("device", ["cuda:999", "cuda:99999999999"])
    def test_a_device_that_is_not_there(self, problems, device):
        ((what, place),) = problems(f"tasks: [colour]\ntraining: {{device: '{device}'}}\n")
        assert what == f"The device '{device}' is not available on this machine"
        assert place == "run.yaml:2:20"

    def test_the_plan(self, built):
        training = {"device": "cpu", "batch_size": 8, "epochs": 4, "accumulate": 2}
        plan = built("colour", training=training, evaluation={"every": 3}, checkpoints={"every": 2, "keep": 5}).plan
        rows = 40 - 4 - 8
        batches = -(-rows // 8)
        assert plan.steps_per_epoch == -(-batches // 2)
        assert plan.steps == 4 * plan.steps_per_epoch
        assert plan.evaluate_every == 3 * plan.steps_per_epoch
        assert (plan.checkpoint_every, plan.keep) == (2 * plan.steps_per_epoch, 5)

    def test_steps_and_epochs_by_default(self, built):
        assert built("colour").plan.steps == 3
        plan = built("colour", training={"device": "cpu"}).plan
        assert plan.steps == 10 * plan.steps_per_epoch

    def test_the_schedule(self, built):
        schedule = built("colour", schedule={"name": "step", "milestones": [0.5], "gamma": 0.5}).schedule
        assert (schedule.shape, schedule.milestones, schedule.gamma) == ("step", (0.5,), 0.5)

    @pytest.mark.parametrize("best", ["loss", "last", "colour/accuracy", "price/mse"])
    def test_what_is_best(self, built, best):
        assert built("colour", "price", checkpoints={"best": best}).plan.best == best

    @pytest.mark.parametrize(
        ("best", "what"),
        [
            ("colour/acuracy", "Task 'colour' has no metric 'acuracy'"),
            ("color/accuracy", "No task is called 'color'"),
            ("price/accuracy", "Task 'price' has no metric 'accuracy'"),
        ],
    )
    def test_what_cannot_be_best(self, problems, best, what):
        assert problems(f"tasks: [colour, price]\ncheckpoints: {{best: {best}}}\n") == [(what, "run.yaml:2:21")]


class TestPlain:
    def test_every_default_and_every_qualified_name_is_written(self, acme):
        acme("colour", "price")
        settings = {"tasks": ["colour", {"name": "price", "label": "cost", "weight": 2}], "optimizer": "SGD"}
        plain = resolve(parse(dump(settings)), Registry.discover()).plain()
        assert plain["tasks"][0] == {
            "name": "acme-mtl:colour",
            "label": "colour",
            "weight": 1.0,
            "batch_size": 64,
            "sampling": "shuffle",
            "stem": None,
            "options": {"width": 4, "smoothing": 0.0},
        }
        assert [task["label"] for task in plain["tasks"]] == ["colour", "cost"]
        assert plain["encoder"] == {"name": "mtlkit:mlp", "layers": [128, 128], "activation": "relu", "dropout": 0.0}
        assert plain["optimizer"]["momentum"] == 0.0
        assert plain["training"]["epochs"] == 10

    def test_it_resolves_to_itself(self, acme):
        acme("colour", "price")
        settings = {"tasks": ["colour", "price"], "strategy": "gradnorm", "schedule": "cosine", **SMALL}
        registry = Registry.discover()
        plain = resolve(parse(dump(settings)), registry).plain()
        assert resolve(parse(dump(plain)), registry).plain() == plain

    def test_it_builds_the_same(self, acme):
        acme("colour")
        settings = {"tasks": ["colour"], **SMALL}
        plain = resolve(parse(dump(settings)), Registry.discover()).plain()
        ours, theirs = mtlkit.build(settings).model.state_dict(), mtlkit.build(plain).model.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def test_a_class_of_the_configuration_builds_the_same(self, acme):
        acme("colour")
        config = mtlkit.RunConfig.from_document(parse(dump({"tasks": ["colour"], **SMALL})))
        assert mtlkit.build(config).labels == ["colour"]

    def test_the_records_are_those_that_are_used(self, acme):
        acme("colour", "price")
        resolved = resolve(parse(dump({"tasks": ["colour"], **SMALL})), Registry.discover())
        names = [record.qualified for record in resolved.records]
        assert names == ["mtlkit:hard-sharing", "mtlkit:mlp", "mtlkit:fixed", "acme-mtl:colour"]


def test_messages_are_sentences(problems):
    """Each ends in one full stop, however the text that it quotes ended."""
    found = problems("tasks: [colour]\nencoder: cnn\n")
    assert not any(re.search(r"[.;:]$", what) for what, _ in found)
