"""Settings from the command line: what they set, what they make room for, and how they are refused."""

from __future__ import annotations

import pytest

from mtlkit.config import RunConfig
from mtlkit.errors import ConfigError
from mtlkit.overrides import apply_overrides
from mtlkit.yamlfile import parse

RUN = """\
tasks:
  - name: digit
    weight: 1.0
  - {name: 'mtlkit-digits:parity', label: odd}
  - rotation
strategy: {name: gradnorm, alpha: 0.5}
optimizer: sgd
encoder:
  name: mlp
  layers: [64, 32]
training: {epochs: 5, batch_size: 16}
"""


def overridden(*overrides: str, text: str = RUN) -> dict:
    return apply_overrides(parse(text, "run.yaml"), overrides).data


def refused(*overrides: str, text: str = RUN) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(parse(text, "run.yaml"), overrides)
    return caught.value


class TestWhatIsSet:
    def test_nothing_changes_nothing(self):
        assert overridden() == parse(RUN).data

    @pytest.mark.parametrize(
        ("override", "section", "key", "value"),
        [
            ("training.batch_size=8", "training", "batch_size", 8),
            ("training.clip_norm=1e-3", "training", "clip_norm", 0.001),
            ("training.deterministic=false", "training", "deterministic", False),
            ("training.threads=null", "training", "threads", None),
            ("training.device=cuda:1", "training", "device", "cuda:1"),
            ("encoder.layers=[8, 4]", "encoder", "layers", [8, 4]),
            ("run.name=a=b", "run", "name", "a=b"),
            ("run.name=", "run", "name", ""),
            ("run.name='007'", "run", "name", "007"),
            ("run.seed=010", "run", "seed", 10),
        ],
    )
    def test_a_value_is_read_as_yaml(self, override, section, key, value):
        assert overridden(override)[section][key] == value

    def test_an_item_of_a_list_by_its_position(self):
        assert overridden("encoder.layers.0=8")["encoder"]["layers"] == [8, 32]

    def test_a_section_that_the_file_lacks_is_made(self):
        assert overridden("checkpoints.keep=1")["checkpoints"] == {"keep": 1}

    def test_a_whole_section(self):
        assert overridden("strategy={name: fixed}")["strategy"] == {"name": "fixed"}

    def test_the_last_of_two_wins(self):
        assert overridden("run.seed=1", "run.seed=2")["run"] == {"seed": 2}

    def test_an_empty_document(self):
        assert overridden("tasks=[digit]", "run.seed=1", text="") == {"tasks": ["digit"], "run": {"seed": 1}}

    def test_its_place_is_the_command_line(self):
        document = apply_overrides(parse(RUN, "run.yaml"), ["training.batch_size=0"])
        with pytest.raises(ConfigError) as caught:
            RunConfig.from_document(document)
        (problem,) = caught.value.problems
        assert problem.location == "command line: training.batch_size=0"


class TestTasks:
    @pytest.mark.parametrize(
        ("word", "index"),
        [("digit", 0), ("0", 0), ("odd", 1), ("mtlkit-digits:parity", 1), ("1", 1), ("rotation", 2), ("2", 2)],
    )
    def test_by_label_name_or_position(self, word, index):
        assert overridden(f"tasks.{word}.weight=2")["tasks"][index]["weight"] == 2

    def test_a_bare_name_gets_room_for_a_setting(self):
        assert overridden("tasks.rotation.weight=2")["tasks"][2] == {"name": "rotation", "weight": 2}

    def test_options(self):
        assert overridden("tasks.digit.options.smoothing=0.1")["tasks"][0]["options"] == {"smoothing": 0.1}

    def test_all_of_them(self):
        assert overridden("tasks=[denoise]")["tasks"] == ["denoise"]

    def test_an_unknown_one_is_answered_with_those_there_are(self):
        assert "Did you mean 'digit'? Known: digit, odd, rotation." in str(refused("tasks.digt.weight=2"))

    def test_a_label_goes_before_the_name_of_an_earlier_task(self):
        text = "tasks:\n  - {name: digit, label: parity}\n  - {name: parity, label: digit}\n"
        assert overridden("tasks.digit.weight=2", text=text)["tasks"][1]["weight"] == 2

    def test_a_task_goes_by_the_label_that_the_run_gives_it(self):
        # A label has no dots, so a run calls the task 'wine.red' 'wine_red'.
        assert overridden("tasks.wine_red.weight=2", text="tasks: [wine.red]\n")["tasks"] == [
            {"name": "wine.red", "weight": 2}
        ]


class TestMakingRoom:
    def test_another_name_drops_the_options_of_the_one_before(self):
        assert overridden("strategy.name=fixed")["strategy"] == {"name": "fixed"}

    def test_but_not_those_given_along_with_it(self):
        for given in (["strategy.name=fixed", "strategy.alpha=[1]"], ["strategy.alpha=[1]", "strategy.name=fixed"]):
            assert overridden(*given)["strategy"] == {"name": "fixed", "alpha": [1]}

    def test_the_same_name_drops_nothing(self):
        assert overridden("strategy.name=gradnorm")["strategy"] == {"name": "gradnorm", "alpha": 0.5}

    def test_a_bare_name_gets_room_for_an_option(self):
        assert overridden("optimizer.lr=0.1")["optimizer"] == {"name": "sgd", "lr": 0.1}

    @pytest.mark.parametrize(
        ("override", "section"), [("optimizer.lr=0.1", "optimizer"), ("schedule.warmup=0.1", "schedule")]
    )
    def test_an_option_of_a_component_that_the_file_leaves_to_its_default(self, override, section):
        document = apply_overrides(parse("tasks: [digit]\n", "run.yaml"), [override])
        default = RunConfig.model_fields[section].default.name
        assert getattr(RunConfig.from_document(document), section).name == default

    def test_steps_take_the_place_of_epochs(self):
        assert overridden("training.steps=3")["training"] == {"batch_size": 16, "steps": 3}

    def test_epochs_take_the_place_of_steps(self):
        text = "tasks: [digit]\ntraining: {steps: 3}\n"
        assert overridden("training.epochs=2", text=text)["training"] == {"epochs": 2}

    @pytest.mark.parametrize(
        ("given", "override", "left"),
        [
            ("{epoch_length: sum}", "training.steps_per_epoch=5", {"steps_per_epoch": 5}),
            ("{steps_per_epoch: 5}", "training.epoch_length=sum", {"epoch_length": "sum"}),
        ],
    )
    def test_one_length_of_an_epoch_takes_the_place_of_the_other(self, given, override, left):
        assert overridden(override, text=f"tasks: [digit]\ntraining: {given}\n")["training"] == left

    def test_another_mixing_drops_what_the_one_before_was_told(self):
        text = "tasks: [digit]\nmixing: {name: ratios, ratios: {digit: 1}}\n"
        assert overridden("mixing.name=uniform", text=text)["mixing"] == {"name": "uniform"}

    def test_both_are_left_for_the_check_to_refuse(self):
        assert overridden("training.steps=3", "training.epochs=2")["training"] == {
            "epochs": 2,
            "batch_size": 16,
            "steps": 3,
        }

    def test_the_place_of_what_was_not_overridden_stays(self):
        document = apply_overrides(parse(RUN, "run.yaml"), ["strategy.alpha=1", "tasks.rotation.weight=2"])
        assert document.location(("strategy", "name")) == "run.yaml:6:18"
        assert document.location(("tasks", 2, "name")) == "run.yaml:5:5"


class TestWhatIsRefused:
    @pytest.mark.parametrize("override", ["seed", "", "=", "=3", ".=3", "run.=3", ".run=3", "run..seed=3"])
    def test_what_is_no_override(self, override):
        assert f"Cannot read the override '{override}'" in str(refused(override))

    @pytest.mark.parametrize("value", ["[1", "{a: ]", "!!python/object:a", "a: 1\na: 2", "\x00"])
    def test_a_value_that_is_no_yaml(self, value):
        error = refused(f"run.name={value}")
        assert error.exit_code == 2
        assert error.problems

    def test_the_problem_of_a_value_names_its_override(self):
        assert "encoder.layers=[8" in str(refused("encoder.layers=[8"))

    def test_a_setting_below_one_that_has_none(self):
        assert "'training.epochs' is 5" in str(refused("training.epochs.x=1"))

    def test_all_are_told_at_once(self):
        assert len(refused("seed", "tasks.nope.weight=1", "run.name=[").problems) == 3
