"""The shape of a run configuration: what is accepted, what is refused, and where the refusal points."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mtlkit.config import RunConfig
from mtlkit.errors import ConfigError, Problem
from mtlkit.yamlfile import Document, dump, parse

# Every key that a configuration may have; those of components' own options are not this module's to know.
EVERY_KEY: dict[str, Any] = {
    "run": {"name": "first", "dir": "runs", "seed": 3},
    "tasks": [
        {
            "name": "digit",
            "label": "which",
            "weight": 2.0,
            "batch_size": 32,
            "sampling": {"weights": "often"},
            "options": {},
        }
    ],
    "mixing": {"name": "annealed", "temperature": 3.0, "sizes": {"which": 2.0}},
    "encoder": {"name": "mlp"},
    "transfer": {
        "pretrained": "runs/first",
        "prefix": "architecture.encoder.",
        "strict": False,
        "freeze": [0, 1],
        "unfreeze": {"every": 2},
        "layer_decay": 0.8,
    },
    "architecture": {"name": "hard-sharing"},
    "strategy": {"name": "fixed"},
    "optimizer": {"name": "adamw"},
    "schedule": {"name": "step", "milestones": [0.5], "gamma": 0.5, "warmup": 0.1},
    "training": {
        "epochs": 3,
        "steps_per_epoch": 7,
        "batch_size": 16,
        "accumulate": 2,
        "clip_norm": 1.0,
        "precision": "float32",
        "heads": "plain",
        "device": "cpu",
        "threads": 1,
        "deterministic": True,
        "log_every": 1,
        "non_finite": "skip-task",
        "non_finite_limit": 3,
    },
    "loading": {"memory": 500, "workers": 4, "start": "forkserver", "prefetch": 3, "pin": False, "timeout": 30.0},
    "evaluation": {"every": 2, "batch_size": 64, "validation": 0.2, "test": 0.2, "split_seed": 1},
    "diagnostics": {"every": 5, "over": "features"},
    "checkpoints": {"every": 2, "keep": 1, "background": False, "best": "last"},
    "hooks": [{"name": "tracker", "project": "wines"}],
    "plugins": {
        "allow": ["acme-mtl", "my_tasks.py"],
        "deny": ["old-mtl"],
        "require": ["acme-mtl>=1.2"],
        "files": ["my_tasks.py"],
        "strict": True,
    },
}
OPEN = {"encoder", "architecture", "strategy", "optimizer"}  # another key in these is an option
LETTERS = "abcdefghijklmnopqrstuvwxyz_"


def config(text: str) -> RunConfig:
    return RunConfig.from_document(parse(text, "run.yaml"))


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        config(text)
    return caught.value.problems


def the_problem(text: str) -> Problem:
    (problem,) = problems(text)
    return problem


def closed_keys() -> list[tuple[str | int, ...]]:
    """Return the path of each key whose misspelling is an unknown key, and nothing else."""
    paths: list[tuple[str | int, ...]] = [(section,) for section in EVERY_KEY]
    for section, inside in EVERY_KEY.items():
        if isinstance(inside, dict) and section not in OPEN:
            paths += [
                (section, key) for key in inside if (section, key) not in {("schedule", "name"), ("mixing", "name")}
            ]
    return [*paths, *(("tasks", 0, key) for key in EVERY_KEY["tasks"][0])]


def misspell(word: str, edit: str, position: int, letter: str) -> str:
    at = position % len(word)
    if edit == "drop":
        return word[:at] + word[at + 1 :]
    if edit == "double":
        return word[:at] + word[at] + word[at:]
    if edit == "swap":
        return word[:at] + word[at : at + 2][::-1] + word[at + 2 :]
    return word[:at] + letter + word[at + 1 :]


def slips(word: str) -> set[str]:
    """Return every text that one slip makes of a word: a letter dropped, doubled or put in, changed, or two swapped."""
    made = {misspell(word, edit, at, "") for edit in ("drop", "double", "swap") for at in range(len(word))}
    made |= {misspell(word, "change", at, letter) for at in range(len(word)) for letter in LETTERS}
    return made | {word[:at] + letter + word[at:] for at in range(len(word) + 1) for letter in LETTERS}


def renamed(data: Any, path: tuple[str | int, ...], name: str) -> Any:
    """Return a copy of data in which the key that path ends in is called name; its place stays."""
    head, *rest = path
    if isinstance(data, list):
        return [renamed(item, tuple(rest), name) if index == head else item for index, item in enumerate(data)]
    if not rest:
        return {name if key == head else key: value for key, value in data.items()}
    return {key: renamed(value, tuple(rest), name) if key == head else value for key, value in data.items()}


class TestWhatIsAccepted:
    def test_tasks_are_enough(self):
        made = config("tasks: [digit, parity]\n")
        assert [task.name for task in made.tasks] == ["digit", "parity"]
        assert [task.weight for task in made.tasks] == [1.0, 1.0]
        assert made.training.epochs is None
        assert made.training.steps is None
        assert made.checkpoints.best == "loss"

    def test_a_bare_name_is_a_component_without_options(self):
        made = config("tasks: [digit]\nencoder: cnn\nstrategy: gradnorm\noptimizer: sgd\nschedule: cosine\n")
        assert (made.encoder.name, made.encoder.options) == ("cnn", {})
        assert (made.strategy.name, made.optimizer.name, made.schedule.name) == ("gradnorm", "sgd", "cosine")

    def test_what_stands_beside_a_name_are_options(self):
        made = config("tasks: [digit]\nencoder: {name: mlp, layers: [8], dropout: 0.5}\n")
        assert made.encoder.options == {"layers": [8], "dropout": 0.5}

    def test_hooks_are_components_too(self):
        made = config("tasks: [digit]\nhooks: [tracker, {name: 'acme-log:log', project: wines}]\n")
        assert [(hook.name, hook.options) for hook in made.hooks] == [
            ("tracker", {}),
            ("acme-log:log", {"project": "wines"}),
        ]

    def test_plugins_are_all_by_default(self):
        made = config("tasks: [digit]\n").plugins
        assert (made.allow, made.deny, made.require, made.files, made.strict) == (None, [], [], [], False)
        assert config("tasks: [digit]\nplugins: {allow: []}\n").plugins.allow == []

    @pytest.mark.parametrize("section", ["encoder", "architecture", "strategy", "optimizer", "schedule"])
    def test_options_alone_are_those_of_the_default_component(self, section):
        default = RunConfig.model_fields[section].default.name
        made = config(f"tasks: [digit]\n{section}: {{warmup: 0.5}}\n")
        assert getattr(made, section).name == default
        assert getattr(made, section).model_dump() == {"name": default, "warmup": 0.5}

    def test_every_key_is_known(self):
        made = RunConfig.from_document(Document.from_data(EVERY_KEY))
        plain = made.model_dump(mode="json", exclude_none=True)
        assert plain == EVERY_KEY

    def test_what_it_holds_reads_back_to_itself(self):
        made = config("tasks: [{name: digit, options: {a: [1, {b: null}]}}]\nschedule: {name: linear, warmup: 0.25}\n")
        assert config(dump(made.model_dump(mode="json"))) == made

    def test_it_cannot_be_changed(self):
        made = config("tasks: [digit]\n")
        with pytest.raises(ValueError, match="frozen"):
            made.training.epochs = 3

    @pytest.mark.parametrize(
        "name", ["a", "A-1_b.c", "a..b", "9", "-x", "a" * 80, "conan", "com", "com10", "xnul", "a.con"]
    )
    def test_names_of_runs(self, name):
        assert config(dump({"tasks": ["digit"], "run": {"name": name}})).run.name == name

    @pytest.mark.parametrize("title", ["Zwei Köpfe: 2 von 5 %?", "a/b", "深い", "x" * 200])
    def test_titles_of_runs(self, title):
        assert config(dump({"tasks": ["digit"], "run": {"title": title}})).run.title == title

    @pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
    def test_devices(self, device):
        assert config(f"tasks: [digit]\ntraining: {{device: '{device}'}}\n").training.device == device

    @pytest.mark.parametrize("memory", ["auto", "always", "never", 1, 64_000])
    def test_what_may_be_held_in_memory(self, memory):
        assert config(f"tasks: [digit]\nloading: {{memory: {memory}}}\n").loading.memory == memory

    @pytest.mark.parametrize("best", ["loss", "last", "digit/accuracy", "digit/a/b"])
    def test_what_is_best(self, best):
        assert config(f"tasks: [digit]\ncheckpoints: {{best: {best}}}\n").checkpoints.best == best

    def test_an_integer_may_stand_for_a_number(self):
        assert config("tasks: [{name: digit, weight: 2}]\n").tasks[0].weight == 2.0


class TestWhatIsRefused:
    @pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "run: {name: a}\n"])
    def test_no_tasks(self, text):
        problem = the_problem(text)
        assert problem.what == "Missing key 'tasks'"
        assert problem.location.startswith("run.yaml:1:")

    @pytest.mark.parametrize("text", ["[]", "3", "text", "[tasks]"])
    def test_a_document_that_is_no_mapping(self, text):
        problem = the_problem(text)
        assert problem.location == "run.yaml:1:1"
        assert "mapping" in problem.remedy

    @pytest.mark.parametrize(
        ("section", "path", "column"),
        [
            ("training: {epochs: 0}", "training.epochs", 20),
            ("training: {epochs: 1.5}", "training.epochs", 20),
            ("training: {epochs: '3'}", "training.epochs", 20),
            ("training: {epochs: true}", "training.epochs", 20),
            ("training: {clip_norm: 0}", "training.clip_norm", 23),
            ("training: {threads: 1000000000}", "training.threads", 21),
            ("training: {clip_norm: .inf}", "training.clip_norm", 23),
            ("training: {deterministic: 1}", "training.deterministic", 27),
            ("training: {device: gpu}", "training.device", 20),
            ("training: {device: 'cuda:'}", "training.device", 20),
            ("training: {precision: float8}", "training.precision", 23),
            ("training: []", "training", 11),
            ("training:", "training", 10),
            ("run: {seed: -1}", "run.seed", 13),
            ("run: {seed: 9223372036854775808}", "run.seed", 13),
            (f"run: {{title: {'a' * 201}}}", "run.title", 14),
            ("run: {name: 3}", "run.name", 13),
            ("run: {dir: ''}", "run.dir", 12),
            ("evaluation: {validation: 1}", "evaluation.validation", 26),
            ("evaluation: {test: 0}", "evaluation.test", 20),
            ("evaluation: {test: .nan}", "evaluation.test", 20),
            ("checkpoints: {best: accuracy}", "checkpoints.best", 21),
            ("checkpoints: {best: digit/}", "checkpoints.best", 21),
            ("encoder: 3", "encoder", 10),
            ("encoder: {name: 3}", "encoder.name", 17),
            (f"encoder: {{name: {'x' * 201}}}", "encoder.name", 17),
            ("schedule: {name: cosine, final: -1}", "schedule.final", 33),
            ("schedule: {name: cosine, warmup: 1}", "schedule.warmup", 34),
            ("schedule: {name: step, milestones: []}", "schedule.milestones", 36),
            ("schedule: {name: step, milestones: [0.5, 2]}", "schedule.milestones[1]", 42),
            ("hooks: tracker", "hooks", 8),
            ("hooks: [3]", "hooks[0]", 9),
            ("hooks: [{name: ''}]", "hooks[0].name", 16),
            ("plugins: [acme]", "plugins", 10),
            ("plugins: {allow: acme}", "plugins.allow", 18),
            ("plugins: {files: [mine.txt]}", "plugins.files[0]", 19),
            ("plugins: {strict: 1}", "plugins.strict", 19),
        ],
    )
    def test_a_value_of_the_wrong_kind_or_size(self, section, path, column):
        problem = the_problem(f"tasks: [digit]\n{section}\n")
        assert (problem.path, problem.location) == (path, f"run.yaml:2:{column}")
        assert problem.what.startswith(("Cannot use", "Unknown value"))
        assert problem.remedy.endswith(".")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            *((name, "A run's name has 1 to 80 letters, digits") for name in ("", "a/b", "a b", "é", "a\n", "a" * 81)),
            *((name, f"No run can be called '{name}': it begins with a dot") for name in (".", "..", ".hidden", "..a")),
            *((name, f"No run can be called '{name}': it ends in a dot") for name in ("a.", "a..")),
            *((name, f"No run can be called '{name}': ") for name in ("CON", "nul", "Com1", "LPT9.log", "aux.a.b")),
        ],
    )
    def test_names_of_runs(self, name, reason):
        problem = the_problem(dump({"tasks": ["digit"], "run": {"name": name}}))
        assert (problem.path, problem.location) == ("run.name", "run.yaml:4:9")
        assert problem.what.startswith(reason)

    @pytest.mark.parametrize("title", ["", " ", "a\nb", "\x1b[31m", "\u202e"])
    def test_titles_of_runs(self, title):
        problem = the_problem(dump({"tasks": ["digit"], "run": {"title": title}}))
        assert (problem.path, problem.location) == ("run.title", "run.yaml:4:10")
        assert problem.what.startswith("A title is one line of text")

    @pytest.mark.parametrize(
        ("section", "path", "column", "what"),
        [
            ("{allow: [-r]}", "allow[0]", 19, "No distribution can be called '-r'; it is the name that pip installs"),
            ("{deny: [acme mtl]}", "deny[0]", 18, "No distribution can be called 'acme mtl'; it is the name that pip"),
            (
                "{require: [acme=>1]}",
                "require[0]",
                21,
                "'acme=>1' is no requirement such as 'acme-mtl>=1.2' (PEP 508): ",
            ),
            ("{require: [a, '']}", "require[1]", 24, "'' is no requirement such as 'acme-mtl>=1.2' (PEP 508): "),
        ],
    )
    def test_what_is_no_distribution_or_requirement(self, section, path, column, what):
        problem = the_problem(f"tasks: [digit]\nplugins: {section}\n")
        assert (problem.path, problem.location) == (f"plugins.{path}", f"run.yaml:2:{column}")
        assert problem.what.startswith(what)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("memory", value) for value in ("0", "-1", "some", "2.5", "true", "null")),
            *(("workers", value) for value in ("-1", "257", "auto", "1.0")),
            *(("start", value) for value in ("thread", "null")),
            *(("prefetch", value) for value in ("0", "65")),
            *(("pin", value) for value in ("1", "maybe")),
            *(("timeout", value) for value in ("0", "-1", ".inf", ".nan", "null")),
        ],
    )
    def test_how_rows_are_loaded_has_bounds(self, key, value):
        found = problems(f"tasks: [digit]\nloading: {{{key}: {value}}}\n")
        assert {problem.path.rpartition(".")[0].partition(".")[0] for problem in found} == {"loading"}
        assert all(problem.path.startswith(f"loading.{key}") for problem in found)

    @pytest.mark.parametrize("weight", ["0", "-1", ".nan", ".inf", "-.inf", "true", "'1'", "null", "[1]"])
    def test_a_weight_that_is_no_positive_number(self, weight):
        problem = the_problem(f"tasks:\n  - name: digit\n    weight: {weight}\n")
        assert (problem.path, problem.location) == ("tasks[0].weight", "run.yaml:3:13")

    def test_an_empty_name(self):
        assert the_problem("tasks: [digit]\nencoder: ''\n").location == "run.yaml:2:10"
        assert the_problem("tasks: [digit]\nencoder: {name: ''}\n").location == "run.yaml:2:17"

    def test_what_was_received_is_shown_with_its_kind(self):
        assert the_problem("tasks: [digit]\ntraining: {epochs: true}").what == "Cannot use true (boolean)"
        assert the_problem("tasks: [digit]\ntraining: {epochs: ten}").what == "Cannot use 'ten'"
        assert the_problem("tasks: [digit]\ntraining: {epochs: .nan}").what == "Cannot use NaN (number)"

    def test_a_long_value_is_shortened(self):
        assert len(the_problem(f"tasks: [digit]\ntraining: {{epochs: {'x' * 5000}}}").what) < 100

    def test_epochs_and_steps_exclude_one_another(self):
        problem = the_problem("tasks: [digit]\ntraining: {epochs: 1, steps: 2}\n")
        assert "either epochs or steps" in problem.what
        assert problem.location == "run.yaml:2:11"

    def test_a_task_without_a_name(self):
        problem = the_problem("tasks:\n  - {label: a}\n")
        assert (problem.what, problem.path) == ("Missing key 'name'", "tasks[0]")
        assert problem.location == "run.yaml:2:5"

    def test_an_unknown_schedule_is_answered_with_the_known_ones(self):
        problem = the_problem("tasks: [digit]\nschedule:\n  name: cosin\n")
        assert problem == Problem(
            "Unknown value 'cosin'",
            "schedule.name",
            "run.yaml:3:9",
            "Did you mean 'cosine'? Known: constant, linear, cosine, step.",
        )

    def test_the_keys_offered_for_a_schedule_are_those_of_that_schedule(self):
        problem = the_problem("tasks: [digit]\nschedule: {name: constant, milestones: [0.5]}\n")
        assert problem.what == "Unknown key 'milestones'"
        assert "milestones" not in problem.remedy
        assert "warmup" in problem.remedy

    def test_everything_is_told_at_once(self):
        found = problems("tasks: [{name: digit, weight: 0}]\ntraining: {epochs: x, batch_size: 0}\nrum: {}\n")
        assert {p.path for p in found} == {"tasks[0].weight", "training.epochs", "training.batch_size", "rum"}

    def test_data_without_a_text_has_no_place(self):
        with pytest.raises(ConfigError) as caught:
            RunConfig.from_document(Document.from_data({"tasks": ["digit"], "training": {"epochs": 0}}))
        assert (
            str(caught.value) == "Cannot use 0 (integer) at training.epochs. It should be greater than or equal to 1."
        )


class TestMisspellings:
    @given(
        path=st.sampled_from(closed_keys()),
        edit=st.sampled_from(["drop", "double", "swap", "change"]),
        position=st.integers(0, 20),
        letter=st.sampled_from(LETTERS),
    )
    @settings(deadline=None, max_examples=200)
    @example(path=("transfer", "freeze"), edit="change", position=0, letter="u")
    @example(path=("diagnostics", "every"), edit="change", position=0, letter="o")
    def test_any_is_found_in_its_place_with_what_was_meant(self, path, edit, position, letter):
        word = str(path[-1])
        wrong = misspell(word, edit, position, letter)
        siblings = [str(each[-1]) for each in closed_keys() if each[:-1] == path[:-1]]
        assume(wrong and wrong not in siblings)
        assume((path[0], wrong) != ("training", "steps"))
        text = dump(renamed(EVERY_KEY, path, wrong))
        # All keys but this one are where EVERY_KEY puts them, so the line is that of the right key there.
        before = dump(EVERY_KEY).splitlines()
        (line,) = (n for n, (old, new) in enumerate(zip(before, text.splitlines(), strict=True), 1) if old != new)
        column = re.match(r"[ -]*", before[line - 1]).end() + 1

        found = [p for p in problems(text) if not p.what.startswith("Missing key")]

        assert [p.what for p in found] == [f"Unknown key '{wrong}'"]
        assert found[0].location == f"run.yaml:{line}:{column}"
        as_near = {word, *(each for each in siblings if wrong in slips(each))}  # 'overy': over, or every
        assert any(f"Did you mean '{each}'?" in found[0].remedy for each in as_near)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["mlp", "digit"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["name", "label", "warmup", "seed"]), inner, max_size=3)
    ),
    max_leaves=8,
)
shaped = st.fixed_dictionaries({"tasks": st.lists(plain_values, max_size=2) | plain_values}) | st.fixed_dictionaries(
    {"tasks": st.just(["digit"])}, optional={section: plain_values for section in EVERY_KEY if section != "tasks"}
)


class TestAnything:
    @given(data=plain_values | shaped)
    @settings(deadline=None, max_examples=200)
    def test_what_is_refused_is_refused_with_problems(self, data):
        document = parse(dump(data), "run.yaml")
        made, refusal = None, None
        try:
            made = RunConfig.from_document(document)
        except ConfigError as error:
            refusal = error
        if made is None:
            assert refusal.problems
            assert all(problem.location.startswith("run.yaml:") for problem in refusal.problems)
            assert str(refusal) == "\n".join(map(str, refusal.problems))
        else:
            assert made.tasks
            assert all(task.weight > 0 and math.isfinite(task.weight) for task in made.tasks)

    @pytest.mark.parametrize("data", [{(1, 2): 3, "tasks": ["digit"]}, {"tasks": ["\ud800"]}])
    def test_python_data_that_no_text_could_give(self, data):
        with pytest.raises(ConfigError):
            RunConfig.from_document(Document.from_data(data))
