"""What a command does with input that is wrong: the exit code, the place, what would work, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# The line of run.yaml that is replaced, by what, the exit code, and what the message says.
BAD_SETTINGS = [
    # keys
    ("  - name: parity", "  - nmae: parity", 2, ["Unknown key 'nmae' at tasks[1].nmae (run.yaml:5:5)", "'name'?"]),
    ("encoder:", "encodr:", 2, ["Unknown key 'encodr' at encodr (run.yaml:6:1)", "Did you mean 'encoder'?"]),
    ("  layers: [8]", "  layres: [8]", 2, ["Unknown key 'layres' at encoder.layres (run.yaml:8:3)", "'layers'?"]),
    ("    weight: 1.0", "    wieght: 1.0", 2, ["Unknown key 'wieght'", "(run.yaml:4:5)", "Did you mean 'weight'?"]),
    ("  name: mlp", "  name: mlp\n  name: cnn", 2, ["Duplicate key 'name'", "run.yaml:7:3", "(run.yaml:8:3)"]),
    # names
    ("  - name: parity", "  - name: party", 2, ["Unknown task 'party'", "run.yaml:5:11", "Did you mean 'parity'?"]),
    ("  name: mlp", "  name: mpl", 2, ["Unknown encoder 'mpl' at encoder.name (run.yaml:7:9)", "Did you mean 'mlp'?"]),
    ("strategy: {name: fixed}", "strategy: gradnrom", 2, ["Unknown strategy", "run.yaml:9:11", "'gradnorm'?"]),
    ("strategy: {name: fixed}", "architecture: soft", 2, ["Unknown architecture 'soft'", "Known: adapters, "]),
    ("strategy: {name: fixed}", "schedule: cosin", 2, ["Unknown value 'cosin'", "run.yaml:9:11", "'cosine'?"]),
    ("optimizer: {name: adamw, lr: 0.01}", "optimizer: adamm", 2, ["Unknown optimizer", "run.yaml:10:12", "'adam"]),
    ("optimizer: {name: adamw, lr: 0.01}", "optimizer: LBFGS", 2, ["'LBFGS' cannot be used here", "run.yaml:10:12"]),
    ("strategy: {name: fixed}", "hooks: [tracker]", 2, ["Unknown plugin 'tracker'", "run.yaml:9:"]),
    ("  - name: parity", "  - name: nowhere-mtl:wine", 3, ["'nowhere-mtl'", "pip install nowhere-mtl"]),
    ("  - name: parity", "  - name: mtlkit-digits:party", 2, ["Unknown task", "run.yaml:5:11", "'parity'?"]),
    # options
    ("  layers: [8]", "  layers: [8, x]", 2, ["Cannot use 'x' at encoder.layers[1] (run.yaml:8:15)"]),
    ("  layers: [8]", "  layers: []", 2, ["Cannot use [] at encoder.layers (run.yaml:8:11)"]),
    ("  layers: [8]", "  layers: [0]", 2, ["Cannot use 0 (integer) at encoder.layers[0] (run.yaml:8:12)"]),
    ("  layers: [8]", "  dropout: 1", 2, ["encoder.dropout (run.yaml:8:12)", "less than 1"]),
    ("  layers: [8]", "  activation: rleu", 2, ["'rleu' at encoder.activation (run.yaml:8:15)", "'relu'?"]),
    ("  name: mlp", "  name: cnn\n  kernel: 2", 2, ["Kernel must be odd", "encoder (run.yaml:7:3)"]),
    ("strategy: {name: fixed}", "strategy: {name: fixed, alpha: [1]}", 2, ["one weight for each of the 2 tasks"]),
    ("optimizer: {name: adamw, lr: 0.01}", "optimizer: {lr: -1}", 2, ["Invalid learning rate", "run.yaml:10:12"]),
    ("  - name: parity", "  - {name: parity, options: {a: 1}}", 2, ["Unknown key 'a'", "(run.yaml:5:30)"]),
    ("  - name: parity", "  - name: digit", 2, ["Two tasks are called 'digit'", "run.yaml:5:5", "label"]),
    # kinds
    ("  layers: [8]", "  layers: 8", 2, ["Cannot use 8 (integer) at encoder.layers (run.yaml:8:11)", "list"]),
    ("    weight: 1.0", "    weight: heavy", 2, ["'heavy' at tasks[0].weight (run.yaml:4:13)", "number"]),
    ("    weight: 1.0", "    weight: true", 2, ["true (boolean) at tasks[0].weight (run.yaml:4:13)"]),
    ("    weight: 1.0", "    weight: 0", 2, ["0 (integer) at tasks[0].weight (run.yaml:4:13)", "greater than 0"]),
    ("    weight: 1.0", "    weight: -1.5", 2, ["-1.5 (number) at tasks[0].weight (run.yaml:4:13)"]),
    ("    weight: 1.0", "    weight: .nan", 2, ["NaN (number) at tasks[0].weight (run.yaml:4:13)", "finite"]),
    ("    weight: 1.0", "    weight: .inf", 2, ["Infinity (number) at tasks[0].weight (run.yaml:4:13)", "finite"]),
    ("strategy: {name: fixed}", "strategy: [fixed]", 2, ["strategy (run.yaml:9:11)", "mapping"]),
    ("strategy: {name: fixed}", "training: {}", 2, ["Duplicate key 'training'"]),
    ("strategy: {name: fixed}", "checkpoints: {best: digit/acc}", 2, ["no metric 'acc'", "(run.yaml:9:21)"]),
    ("strategy: {name: fixed}", "run: {name: ../up}", 2, ["Duplicate key 'run'"]),
    ("run: {name: first, dir: runs}", "run: {name: ../up}", 2, ["'../up' at run.name (run.yaml:1:13)"]),
    # the text itself
    ("encoder:", "encoder: [", 2, ["Not valid YAML", "(run.yaml:6:10)", "(run.yaml:8:9)"]),
    ("encoder:", "\tencoder:", 2, ["Not valid YAML", "run.yaml:6:"]),
    ("encoder:", "encoder: !!python/name:os.system", 2, ["Tag '!!python/name:os.system' is not supported"]),
]

# The whole file, and what the message says.
BAD_FILES = [
    (b"", ["Missing key 'tasks'"]),
    (b"tasks: []\n", ["Cannot use [] at tasks (bad.yaml:1:8)", "at least 1 item"]),
    (b"tasks:\n", ["Cannot use null at tasks (bad.yaml:1:7)", "list"]),
    (b"tasks: [[digit]]\n", ["tasks[0] (bad.yaml:1:9)"]),
    (b"just some words\n", ["bad.yaml:1:1", "mapping"]),
    (b"\x89PNG\r\n\x1a\n\x00\x00", ["Byte 0x89 is not UTF-8 text", "bad.yaml:1:1"]),
    (b"\x7fELF\x02\x01\x01\x00\x00", ["not allowed in YAML", "bad.yaml:1:1"]),
    (b"PK\x03\x04", ["not allowed in YAML", "bad.yaml:1:3"]),
    (b"tasks: [digit]\n\x00", ["not allowed in YAML", "bad.yaml:2:1"]),
    (b"tasks: [digit]\n---\ntasks: [digit]\n", ["bad.yaml:2:1"]),
    (b"a" * 1_000_001, ["larger than 1000000 bytes"]),
]

# A task of tests/fixtures/acme.py, the exit code, and what the message says.
BAD_TASKS = [
    ("wide-head", 3, ["Head output of shape (8, 3)", "Target of shape (8, 1)"]),
    ("narrow-head", 3, ["The loss of task 'narrow-head' failed", "Head output of shape (8, 1)"]),
    ("vector-loss", 3, ["The loss of task 'vector-loss' must be a scalar", "received shape (8, 1)"]),
    ("constant-loss", 3, ["depends on nothing that can be trained"]),
    ("no-head", 3, ["is no torch module"]),
    ("missing-column", 3, ["'vintage'", "'colour', 'price', 'unknown'"]),
    ("crashes", 3, ["KeyError: 'grapes'"]),
    ("no-file", 3, ["FileNotFoundError: bottles.csv"]),
    ("unlabelled", 4, ["no labelled training row"]),
    ("raw", 3, ["torch.uint8"]),
]


def refuses(done, code: int, fragments: list[str]) -> None:
    """Check that a command was refused as it should be: on stderr, in a few lines, with no traceback."""
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "bug in mtlkit" not in done.stderr
    assert done.stderr.startswith("Error:")
    for fragment in fragments:
        assert fragment in done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestSettings:
    @pytest.mark.parametrize(
        ("line", "instead", "code", "fragments"), BAD_SETTINGS, ids=[b for _, b, _, _ in BAD_SETTINGS]
    )
    def test_are_refused_where_they_stand(self, mtlkit, folder, line, instead, code, fragments):
        lines = (folder / "run.yaml").read_text(encoding="utf-8").splitlines()
        lines[lines.index(line)] = instead
        (folder / "run.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        refuses(mtlkit("check", "run.yaml"), code, fragments)

    def test_several_are_told_at_once(self, mtlkit):
        done = mtlkit("check", "run.yaml", "encoder.layres=[8]", "tasks.digit.weight=0", "run.seed=x")
        refuses(done, 2, ["Error: 3 problems.\n", "layres", "tasks[0].weight", "run.seed"])
        assert len(done.stderr.splitlines()) == 4

    @pytest.mark.parametrize(
        ("override", "fragments"),
        [
            ("seed", ["Cannot read the override 'seed'"]),
            ("tasks.digt.weight=2", ["No task 'digt' to override", "Did you mean 'digit'?"]),
            ("tasks=[]", ["(command line: tasks=[])"]),
            ("run.nmae=x", ["Unknown key 'nmae' at run.nmae (command line: run.nmae=x)", "'name'?"]),
            ("training.steps=0", ["(command line: training.steps=0)"]),
            ("training.device=cuda:99", ["'cuda:99' is not available", "Available: auto, cpu"]),
            ("training.device=cuda:99999999999", ["not available"]),
            ("encoder.layers=[8", ["Not valid YAML"]),
        ],
    )
    def test_on_the_command_line(self, mtlkit, override, fragments):
        refuses(mtlkit("check", "run.yaml", override), 2, fragments)

    def test_for_a_program(self, mtlkit):
        done = mtlkit("check", "run.yaml", "run.nmae=x", "--json")
        assert done.exit_code == 2
        assert done.stderr == ""
        error = json.loads(done.stdout)["error"]
        assert (error["kind"], error["exit_code"]) == ("ConfigError", 2)
        (problem,) = error["problems"]
        assert (problem["path"], problem["location"]) == ("run.nmae", "command line: run.nmae=x")


class TestFiles:
    @pytest.mark.parametrize("command", ["check", "train", "baseline"])
    def test_one_that_is_not_there(self, mtlkit, command):
        refuses(mtlkit(command, "nowhere.yaml"), 2, ["nowhere.yaml", "No such file", "exists and can be read"])

    def test_a_folder(self, mtlkit, folder):
        refuses(mtlkit("check", str(folder)), 2, [str(folder), "It is a folder, not a file"])

    @pytest.mark.parametrize(("raw", "fragments"), BAD_FILES, ids=[repr(raw[:16]) for raw, _ in BAD_FILES])
    def test_what_is_no_configuration(self, mtlkit, folder, raw, fragments):
        (folder / "bad.yaml").write_bytes(raw)
        refuses(mtlkit("check", "bad.yaml"), 2, fragments)


class TestTasks:
    @pytest.mark.parametrize(("task", "code", "fragments"), BAD_TASKS, ids=[task for task, _, _ in BAD_TASKS])
    def test_that_do_not_fit_are_found_before_training(self, mtlkit, folder, acme, task, code, fragments):
        acme(task)
        whose = f"acme-mtl 1.2, entry point mtlkit.tasks: {task} = "
        if task != "raw":  # the encoder's refusal names the task alone
            fragments = [whose, *fragments]
        refuses(mtlkit("train", "run.yaml", f"tasks=[{task}]"), code, fragments)
        assert not (folder / "runs").exists()

    def test_that_do_not_go_together(self, mtlkit, acme):
        acme("price")
        done = mtlkit("check", "run.yaml", "tasks=[digit, price]")
        refuses(done, 4, ["'digit': (1, 8, 8)", "'price': (4,)"])

    @pytest.mark.parametrize("module", ["raise ImportError('too old')", "import sys; sys.exit(9)", "def (:"])
    def test_that_cannot_be_imported(self, mtlkit, install, module):
        install("bad-mtl", "0.1", entry_points={"tasks": {"bad": "acme_bad:x"}}, modules={"acme_bad": module})
        whose = "bad-mtl 0.1, entry point mtlkit.tasks: bad = acme_bad:x"
        refuses(mtlkit("check", "run.yaml", "tasks=[digit, bad]"), 3, [whose, "Reinstall or update bad-mtl"])
        refuses(mtlkit("show", "tasks", "bad"), 3, [whose])
        assert mtlkit("check", "run.yaml").exit_code == 0

    def test_that_two_distributions_provide(self, mtlkit, install):
        install("zeta", "0.3", entry_points={"tasks": {"digit": "nowhere:digit"}})
        refuses(mtlkit("check", "run.yaml"), 2, ["mtlkit-digits:digit (mtlkit-digits 0.1.0)", "zeta:digit (zeta 0.3)"])
        assert mtlkit("check", "run.yaml", "tasks=['mtlkit-digits:digit', parity]").exit_code == 0


class TestWorkers:
    """Worker processes that break while they read a row."""

    BROKEN = (
        ("killed", "A worker process was killed by SIGKILL while reading row 31 of 'train'"),
        ("raises", "Row 31 of 'train' raised RuntimeError: the label came off"),
        ("exits", "A worker process ended with status 3 while reading row 31 of 'train'"),
        ("hangs", "A worker process was still reading row 31 of 'train' after 1 s"),
    )

    @pytest.fixture(name="arguments")
    def fixture_arguments(self, install):
        install("acme-rows", entry_points={"tasks": {"sweetness": "acme_rows:sweetness"}}, modules=("acme_rows",))

        def arguments(fault, start):
            task = f"{{name: sweetness, options: {{fault: {fault}, at: 31}}}}"
            loading = f"{{memory: never, workers: 1, start: {start}, timeout: 1.0}}"
            return ["train", "run.yaml", "-q", f"tasks=[{task}]", f"loading={loading}"]

        return arguments

    @pytest.mark.parametrize(("fault", "said"), BROKEN)
    def test_end_the_run_with_the_row(self, mtlkit, arguments, fault, said):
        whose = (
            "The rows of task 'sweetness' (acme-rows 1.0, entry point mtlkit.tasks: sweetness = acme_rows:sweetness)"
        )
        refuses(mtlkit(*arguments(fault, "fork")), 4, [whose, said])

    @pytest.mark.slow
    @pytest.mark.parametrize(("fault", "said"), BROKEN)
    def test_end_the_run_where_they_were_spawned(self, folder, arguments, fault, said):
        command = [sys.executable, "-m", "mtlkit", *arguments(fault, "spawn")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 4, done.stderr
        assert done.stderr.startswith("Error: The rows of task 'sweetness'")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


class TestRunFolders:
    def test_one_that_exists_is_never_written_over(self, mtlkit, folder):
        assert mtlkit("train", "run.yaml", "-q").exit_code == 0
        before = contents(folder)
        done = mtlkit("train", "run.yaml")
        path = Path("runs/first")
        refuses(done, 2, [f"The run folder {path} exists already", f"mtlkit resume {path}", "run.name=first-2"])
        assert contents(folder) == before

    def test_nor_is_anything_else_of_that_name(self, mtlkit, folder):
        other = folder / "runs" / "first"
        other.mkdir(parents=True)
        (other / "thesis.txt").write_text("mine", encoding="utf-8")
        (folder / "runs" / "first-2").write_text("a file", encoding="utf-8")
        before = contents(folder)
        refuses(mtlkit("train", "run.yaml"), 2, ["exists already", "run.name=first-3"])
        refuses(mtlkit("train", "run.yaml", "--resume"), 5, ["is no run folder"])
        assert contents(folder) == before

    def test_a_run_is_not_resumed_as_another(self, mtlkit, folder):
        assert mtlkit("train", "run.yaml", "-q").exit_code == 0
        before = contents(folder)
        done = mtlkit("train", "run.yaml", "tasks.parity.weight=2", "--resume")
        refuses(done, 2, ["tasks[1].weight was 1.0 and is 2.0", "Another run.name"])
        assert contents(folder) == before

    @pytest.mark.parametrize("place", ["run.yaml", "run.yaml/deeper", "x" * 300])
    def test_a_place_that_cannot_be_written(self, mtlkit, folder, place):
        before = contents(folder)
        done = mtlkit("train", "run.yaml", f"run.dir={place}")
        refuses(done, 7, ["Cannot create the run folder", place])
        assert "step" not in done.stderr
        assert contents(folder) == before

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="no place is closed to root")
    def test_a_place_without_permission(self, mtlkit, folder):
        (folder / "closed").mkdir(mode=0o500)
        refuses(mtlkit("train", "run.yaml", "run.dir=closed"), 7, ["Permission denied"])

    @pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
    def test_a_file_system_that_takes_no_folders(self, mtlkit):
        refuses(mtlkit("train", "run.yaml", "run.dir=/proc/runs"), 7, ["Cannot create the run folder", "/proc/runs"])

    def test_a_place_that_no_system_has(self, mtlkit):
        done = mtlkit("train", "run.yaml", 'run.dir="a\\0b"')
        assert done.exit_code in {2, 7}, done.output
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("name", ["nowhere", "run.yaml", "."])
    def test_what_is_no_run_is_not_evaluated(self, mtlkit, name):
        refuses(mtlkit("evaluate", name), 5, ["is no run folder"])
