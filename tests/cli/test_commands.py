"""What each command prints, to a person and to a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import mtlkit as package
from mtlkit.cli import main
from mtlkit.errors import Stopped
from mtlkit.yamlfile import load

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS = ["tasks", "encoders", "architectures", "strategies", "plugins", "commands"]
GROUPS = ("plugins", "runs")
COMMANDS = [
    *(name for name in main.commands if name not in GROUPS),
    *(f"{group} {name}" for group in GROUPS for name in main.commands[group].commands),
]


@pytest.fixture
def answer(mtlkit):
    """Return a function that gives what a command prints with --json: one value on stdout, and nothing beside it."""

    def run(*arguments: str) -> Any:
        done = mtlkit(*arguments, "--json")
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_of_each_command(self, mtlkit, name):
        done = mtlkit(*name.split(), "--help")
        assert done.exit_code == 0
        assert done.stdout.startswith(f"Usage: mtlkit {name} ")
        assert "--json" in done.stdout
        assert "--quiet" in done.stdout
        assert "--debug" in done.stdout
        assert done.stdout == mtlkit(*name.split(), "-h").stdout

    def test_of_them_all(self, mtlkit):
        done = mtlkit("--help")
        assert done.exit_code == 0
        assert all(command.short_help in done.stdout for command in main.commands.values())
        for group in GROUPS:
            within = main.commands[group].commands.values()
            assert all(command.short_help in mtlkit(group, "-h").stdout for command in within)
        assert "\\b" not in done.stdout

    def test_version(self, mtlkit):
        assert mtlkit("--version").stdout == f"mtlkit, version {package.__version__}\n"

    @pytest.mark.parametrize("arguments", [["trian"], ["list", "task"], ["train"], ["train", "run.yaml", "--nope"]])
    def test_what_is_no_command_is_a_usage_error(self, mtlkit, arguments):
        done = mtlkit(*arguments)
        assert done.exit_code == 2
        assert done.stdout == ""
        assert "Usage: mtlkit" in done.stderr


class TestList:
    def test_everything(self, mtlkit):
        done = mtlkit("list")
        assert done.exit_code == 0
        heading, *rows = done.stdout.splitlines()
        assert heading.split() == ["kind", "name", "summary", "from"]
        assert any(row.split()[:2] == ["tasks", "digit"] and row.endswith("mtlkit-digits 0.1.0") for row in rows)

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_kind(self, answer, kind):
        assert {record["kind"] for record in answer("list", kind)} <= {kind}

    def test_as_json(self, answer):
        (digit,) = [record for record in answer("list") if record["name"] == "digit"]
        assert digit == {
            "kind": "tasks",
            "name": "digit",
            "distribution": "mtlkit-digits",
            "version": "0.1.0",
            "summary": "Which of the ten digits it is.",
        }

    def test_a_name_that_is_given_twice_is_qualified(self, answer, install):
        install("zeta", entry_points={"tasks": {"digit": "nowhere:digit"}})
        names = [record["name"] for record in answer("list", "tasks")]
        assert {"mtlkit-digits:digit", "zeta:digit"} <= set(names)
        assert "digit" not in names

    def test_a_broken_plugin_is_listed(self, answer, install):
        install("bad", entry_points={"tasks": {"bad": "acme_bad:x"}}, modules={"acme_bad": "def (:\n"}, summary="Bad.")
        assert ("bad", "Bad.") in {(record["name"], record["summary"]) for record in answer("list", "tasks")}

    def test_nothing_to_list(self, mtlkit, answer):
        assert answer("list", "plugins", "--no-plugins") == []
        assert mtlkit("list", "plugins", "--no-plugins").stdout == "No plugins are installed.\n"


class TestShow:
    def test_a_task(self, mtlkit):
        done = mtlkit("show", "tasks", "denoise")
        assert done.exit_code == 0
        assert "mtlkit-digits:denoise" in done.stdout
        assert "What the image was before noise was added to it." in done.stdout
        rows = [line.split() for line in done.stdout.splitlines()]
        assert ["option", "type", "default"] in rows
        assert ["noise", "number", ">", "0", "0.3"] in rows

    def test_one_without_options(self, mtlkit):
        assert "It takes no options." in mtlkit("show", "tasks", "parity").stdout

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            ("encoders", "mlp"),
            ("encoders", "mtlkit:cnn"),
            ("architectures", "hard-sharing"),
            ("strategies", "gradnorm"),
            ("strategies", "uncertainty"),
            ("strategies", "fixed"),
            ("tasks", "mtlkit-digits:digit"),
        ],
    )
    def test_as_json(self, answer, mtlkit, kind, name):
        shown = answer("show", kind, name)
        assert (shown["kind"], shown["name"]) == (kind, name.rpartition(":")[2])
        assert shown["doc"]
        assert shown["options"]["additionalProperties"] is False
        assert mtlkit("show", kind, name).exit_code == 0

    def test_bounds_and_choices_are_said_as_a_person_would(self, mtlkit):
        rows = [line.split() for line in mtlkit("show", "strategies", "gradnorm").stdout.splitlines()]
        assert ["optimizer", "adam", "|", "sgd", '"adam"'] in rows
        assert ["alpha", "number", "≥", "0", "1.5"] in rows

    def test_an_unknown_one(self, mtlkit):
        done = mtlkit("show", "strategies", "gradnrom")
        assert done.exit_code == 2
        assert "Did you mean 'gradnorm'?" in done.stderr

    def test_an_option_of_a_type_that_json_lacks(self, mtlkit, install):
        module = (
            "import torch, mtlkit\nclass Wine(mtlkit.Task):\n"
            "    def __init__(self, *, dtype: torch.dtype = torch.float32): ...\nwine = mtlkit.plugin(Wine)\n"
        )
        install("acme", entry_points={"tasks": {"wine": "acme_wine:wine"}}, modules={"acme_wine": module})
        done = mtlkit("show", "tasks", "wine")
        assert done.exit_code == 3
        assert "acme" in done.stderr
        assert "Traceback" not in done.stderr


class TestInit:
    def test_what_it_writes_passes_the_check(self, mtlkit, folder):
        done = mtlkit("init", "new.yaml")
        assert done.exit_code == 0
        assert done.stdout == "Wrote new.yaml. Now: mtlkit train new.yaml\n"
        checked = mtlkit("check", "new.yaml", "training.device=cpu", "encoder.layers=[8]")
        assert checked.exit_code == 0, checked.output
        data = load(folder / "new.yaml").data
        assert data["run"]["name"] == "new"
        assert {task["name"] for task in data["tasks"]} == {"digit", "parity", "rotation", "denoise"}

    def test_its_name_by_default(self, mtlkit, folder):
        (folder / "run.yaml").unlink()
        assert mtlkit("init").exit_code == 0
        assert (folder / "run.yaml").is_file()

    def test_only_the_tasks_that_are_named(self, answer, folder):
        shown = answer("init", "new.yaml", "--task", "parity", "-t", "mtlkit-digits:digit")
        assert shown == {"path": "new.yaml", "tasks": ["parity", "digit"]}
        assert load(folder / "new.yaml").data["tasks"] == [{"name": "parity"}, {"name": "digit"}]

    @pytest.mark.parametrize("task", ["wine", "nowhere:wine"])
    def test_a_task_that_is_not_there(self, mtlkit, folder, task):
        done = mtlkit("init", "new.yaml", "--task", task)
        assert done.exit_code == (3 if ":" in task else 2)
        assert not (folder / "new.yaml").exists()

    def test_a_file_that_exists_is_left_as_it_is(self, mtlkit, folder):
        before = (folder / "run.yaml").read_bytes()
        done = mtlkit("init", "run.yaml")
        assert done.exit_code == 2
        assert "The file run.yaml exists already. It was left as it is; name another file." in done.stderr
        assert (folder / "run.yaml").read_bytes() == before

    def test_a_folder_that_is_a_file(self, mtlkit, folder):
        done = mtlkit("init", "run.yaml/new.yaml")
        assert done.exit_code == 7
        assert "run.yaml/new.yaml exists already" not in done.stderr

    @pytest.mark.parametrize("name", ["123", "null", "true", "1e3", "-", "~", "a b", "é", "...", ".hidden", "x" * 200])
    def test_a_file_of_any_name(self, mtlkit, folder, name):
        assert mtlkit("init", "--task", "digit", "--", f"new/{name}.yaml").exit_code == 0
        checked = mtlkit("check", f"new/{name}.yaml", "training.device=cpu")
        assert checked.exit_code == 0, checked.output

    def test_a_task_named_twice_is_written_once(self, answer):
        assert answer("init", "new.yaml", "-t", "digit", "-t", "mtlkit-digits:digit")["tasks"] == ["digit"]

    def test_two_distributions_with_one_name(self, mtlkit, acme, install):
        acme("colour")
        install("zeta", entry_points={"tasks": {"colour": "acme:colour"}})
        assert mtlkit("init", "new.yaml", "-t", "acme-mtl:colour", "-t", "zeta:colour").exit_code == 0
        checked = mtlkit("check", "new.yaml", "training.device=cpu")
        assert checked.exit_code == 0, checked.output


class TestCheck:
    def test_for_a_person(self, mtlkit):
        done = mtlkit("check", "run.yaml")
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        assert "628 parameters, 520 of them shared; 3 steps" in done.stdout
        assert done.stdout.endswith("run.yaml is fine.\n")

    def test_for_a_program(self, answer, folder):
        shown = answer("check", "run.yaml")
        assert [(task["task"], task["source"]) for task in shown["tasks"]] == [("digit", 1), ("parity", 1)]
        assert (shown["parameters"], shown["shared_parameters"], shown["steps"]) == (628, 520, 3)
        assert shown["config"]["encoder"]["name"] == "mtlkit:mlp"
        assert shown["device"] == "cpu"

    def test_it_leaves_nothing(self, mtlkit, folder):
        assert mtlkit("check", "run.yaml").exit_code == 0
        assert [path.name for path in folder.iterdir()] == ["run.yaml"]

    def test_overrides(self, answer):
        shown = answer("check", "run.yaml", "encoder.layers=[4]", "tasks.parity.weight=2", "strategy=gradnorm")
        assert shown["config"]["encoder"]["layers"] == [4]
        assert shown["config"]["tasks"][1]["weight"] == 2.0
        assert shown["config"]["strategy"]["name"] == "mtlkit:gradnorm"

    @pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
    def test_the_examples(self, mtlkit, example):
        done = mtlkit("check", str(example), "training.device=cpu")
        assert done.exit_code == 0, done.output


class TestTrain:
    def test_for_a_person(self, mtlkit, folder):
        done = mtlkit("train", "run.yaml")
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("Test split, weights of step 3 of 3\n")
        assert done.stdout.endswith(f"The run is in {Path('runs/first')}\n")
        assert done.stderr.startswith("Training digit, parity from the beginning to step 3")
        assert (folder / "runs/first/done.json").is_file()

    def test_quietly(self, mtlkit):
        done = mtlkit("train", "run.yaml", "--quiet")
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        assert done.stdout

    def test_then_evaluate_for_a_program(self, answer, mtlkit, folder):
        shown = answer("train", "run.yaml")
        assert (shown["folder"], shown["steps"], shown["best_step"]) == ("runs/first", 3, 3)
        assert set(shown["test"]) == {"digit", "parity"}
        evaluated = answer("evaluate", "runs/first")
        assert (evaluated["split"], evaluated["step"]) == ("test", 3)
        assert evaluated["tasks"] == shown["test"]
        validation = mtlkit("evaluate", "runs/first", "--split", "validation")
        assert validation.stdout.startswith("Validation split, weights of step 3\n")

    def test_what_was_run_can_be_run_again(self, mtlkit, folder, answer):
        first = answer("train", "run.yaml")
        again = answer("train", "runs/first/config.yaml", "run.name=again")
        assert again["test"] == first["test"]

    def test_a_finished_run_is_resumed_by_saying_so(self, answer):
        first = answer("train", "run.yaml")
        assert answer("train", "run.yaml", "--resume") == first

    def test_a_hook_that_is_named_is_told(self, mtlkit, folder, install):
        module = (
            "import mtlkit, pathlib\nclass Log:\n    @mtlkit.hookimpl\n    def mtlkit_run_finished(self, event):\n"
            "        pathlib.Path('told').write_text(str(event.best_step))\nlog = Log()\n"
        )
        install("acme", entry_points={"plugins": {"log": "acme_log:log"}}, modules={"acme_log": module})
        done = mtlkit("train", "run.yaml", "hooks=[log]")
        assert done.exit_code == 0, done.output
        assert (folder / "told").read_text(encoding="utf-8") == "3"


class TestBaseline:
    def test_for_a_person_and_a_program(self, mtlkit, answer):
        done = mtlkit("baseline", "run.yaml")
        assert done.exit_code == 0, done.output
        assert "Each task alone and together" in done.stdout
        assert done.stderr.splitlines()[0].startswith("[1/3] seed 0, together")
        shown = answer("baseline", "run.yaml")
        assert shown["folder"] == "runs/first-baseline"
        assert set(shown["tasks"]) == {"digit", "parity"}


# --- the schema ------------------------------------------------------------------------------------------------------

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": int | float,
}


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Return whether a JSON Schema accepts a value, as far as the keywords that the schema here uses go."""

    def holds(keyword: str, rule: Any) -> bool:
        if keyword == "$ref":
            return accepts(root["$defs"][rule.rpartition("/")[2]], value, root)
        if keyword in {"allOf", "anyOf", "oneOf"}:
            count = sum(accepts(each, value, root) for each in rule)
            return {"allOf": count == len(rule), "anyOf": count > 0, "oneOf": count == 1}[keyword]
        if keyword == "type":
            return isinstance(value, TYPES[rule]) and (rule == "boolean" or not isinstance(value, bool))
        if keyword in {"const", "enum"}:
            return value in (rule if keyword == "enum" else [rule])
        return True

    inside = accepts_object if isinstance(value, dict) else accepts_list if isinstance(value, list) else None
    return all(holds(*each) for each in schema.items()) and (inside is None or inside(schema, value, root))


def accepts_object(schema: dict[str, Any], value: dict[str, Any], root: dict[str, Any]) -> bool:
    known = schema.get("properties", {})
    complete = set(schema.get("required", [])) <= value.keys()
    closed = schema.get("additionalProperties") is not False or value.keys() <= known.keys()
    return complete and closed and all(accepts(known[key], value[key], root) for key in value.keys() & known.keys())


def accepts_list(schema: dict[str, Any], value: list[Any], root: dict[str, Any]) -> bool:
    items = schema.get("items", {})
    return len(value) >= schema.get("minItems", 0) and all(accepts(items, item, root) for item in value)


class TestSchema:
    @pytest.fixture
    def schema(self, answer):
        return answer("schema")

    def test_it_is_the_same_without_json(self, mtlkit, schema):
        assert json.loads(mtlkit("schema").stdout) == schema

    def test_it_says_what_it_is(self, schema):
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert schema["required"] == ["tasks"]

    def test_every_setting_is_described(self, schema):
        for part in ("Run", "TaskConfig", "Training", "Evaluation", "Checkpoints"):
            for name, about in schema["$defs"][part]["properties"].items():
                assert about.get("description"), f"{part}.{name}"

    def test_what_is_installed_is_offered(self, schema):
        assert all(f'"{name}"' in json.dumps(schema) for name in ("digit", "parity", "cnn", "hard-sharing", "gradnorm"))

    @pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
    def test_it_accepts_the_examples(self, schema, example):
        assert accepts(schema, load(example).data, schema)

    def test_it_accepts_what_init_writes(self, mtlkit, schema, folder):
        assert mtlkit("init", "new.yaml").exit_code == 0
        assert accepts(schema, load(folder / "new.yaml").data, schema)

    @pytest.mark.parametrize(
        "text",
        [
            "tasks: [{name: digit}]",
            "tasks: [digit]",
            "tasks: [{name: digit}]\nencoder: cnn",
            "tasks: [{name: digit}]\nencoder: {layers: [8]}",
            "tasks: [{name: digit}]\nstrategy: {name: gradnorm, alpha: 1}",
            "tasks: [{name: digit}]\noptimizer: sgd",
            "tasks: [{name: digit}]\noptimizer: {lr: 0.1}",
            "tasks: [{name: digit}]\nschedule: cosine",
            "tasks: [{name: digit}]\nschedule: {warmup: 0.1}",
            "tasks: [{name: digit}]\nschedule: {name: cosine, warmup: 0.1}",
            "tasks: [{name: digit, sampling: balanced}]\nmixing: uniform",
            "tasks: [{name: digit, sampling: {balanced: digit}}]\nmixing: {name: ratios, ratios: {digit: 1}}",
        ],
    )
    def test_it_accepts_every_form_that_the_check_accepts(self, mtlkit, schema, folder, text):
        (folder / "some.yaml").write_text(text, encoding="utf-8")
        checked = mtlkit("check", "some.yaml", "training.device=cpu")
        assert checked.exit_code == 0, checked.output
        assert accepts(schema, yaml.safe_load(text), schema)

    @pytest.mark.parametrize(
        "text",
        [
            "{}",
            "tasks: digit",
            "tasks: []",
            "tasks: [{}]",
            "tasks: [{name: digit, wieght: 1}]",
            "tasks: [{name: digit}]\ntrianing: {}",
            "tasks: [{name: digit}]\ntraining: {epochs: ten}",
            "tasks: [{name: digit}]\ntraining: {precision: float8}",
            "tasks: [{name: digit}]\nschedule: {name: cosin}",
            "tasks: [{name: digit}]\nmixing: {name: uniform, ratios: {digit: 1}}",
            "tasks: [{name: digit, sampling: {class: digit}}]",
            "tasks: [{name: digit}]\nencoder: 3",
        ],
    )
    def test_it_refuses_what_the_check_refuses(self, mtlkit, schema, folder, text):
        (folder / "some.yaml").write_text(text, encoding="utf-8")
        assert mtlkit("check", "some.yaml").exit_code == 2
        assert not accepts(schema, yaml.safe_load(text), schema)


def test_a_run_that_was_stopped_says_how_to_go_on_with_the_same_plugins(mtlkit, folder, monkeypatch):
    def stopped(*_, **__):
        raise Stopped("Stopped after step 1 of 3.", 2)

    monkeypatch.setattr("mtlkit.app.train", stopped)
    text = (FIXTURES / "acme.py").read_text(encoding="utf-8")
    (folder / "stopped_wines.py").write_text(text, encoding="utf-8")
    done = mtlkit("train", "run.yaml", "training.steps=5", "--plugin", "stopped_wines.py", "--no-plugins")
    assert done.exit_code == 130
    assert done.stderr.endswith(
        "Go on with: mtlkit train run.yaml training.steps=5 --plugin stopped_wines.py --no-plugins --resume\n"
    )
