"""``mtlkit runs``: what is listed, shown, found damaged and removed; for a person, and for a program."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from mtlkit.locking import Lock

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "schema-2" / "run"
DONE = {
    "steps": 4,
    "best_step": 4,
    "test": {
        "side": {"loss": 0.5, "metrics": {"accuracy": 0.75}, "rows": 8},
        "height": {"loss": 0.25, "metrics": {"mse": 0.25, "mae": 0.5}, "rows": 8},
    },
}


@pytest.fixture
def run(folder):
    """Return a function that lays down a run of four steps, saved and evaluated, in the folder 'runs'."""

    def lay_down(name: str = "first", *, done: bool = False, ended: str | None = "stopped", title: str = "") -> Path:
        path = folder / "runs" / name
        shutil.copytree(GOLDEN, path)
        if title:
            text = (path / "config.yaml").read_text(encoding="utf-8")
            (path / "config.yaml").write_text(text.replace("run:\n", f"run:\n  title: {title}\n", 1), encoding="utf-8")
        if done:
            (path / "done.json").write_text(json.dumps(DONE), encoding="utf-8")
        if ended is not None:
            Lock.acquire(path).release(ended, "PluginError: it broke" if ended == "failed" else None)
        return path

    return lay_down


@pytest.fixture
def answer(mtlkit):
    """Return a function that gives what a command prints with --json, and its exit code."""

    def ask(*arguments):
        done = mtlkit("runs", *arguments, "--json")
        assert "Traceback" not in done.output
        return json.loads(done.stdout), done.exit_code

    return ask


def contents(folder):
    """Return every file, and when it was changed."""
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def crash(path):
    """Leave the folder as a process that is killed leaves it."""
    Lock.acquire(path)._drop()


class TestList:
    def test_for_a_person(self, mtlkit, run, folder):
        run("old")
        os.utime(folder / "runs" / "old" / "config.yaml", (1e9, 1e9))
        os.utime(folder / "runs" / "old" / "metrics.jsonl", (1e9, 1e9))
        run("new", done=True, ended="finished", title="What is it about?")
        done = mtlkit("runs", "list")
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        heading, new, old, title = done.stdout.splitlines()
        assert heading.split() == ["run", "state", "step", "last", "written", "size", "results"]
        assert new.split()[:3] == ["new", "finished", "4/4"]
        assert new.endswith("kB  side 0.7500, height 0.2500")
        assert old.split()[:4] == ["old", "stopped", "4/8", time.strftime("%Y-%m-%d", time.localtime(1e9))]
        assert old.endswith("side 0.8750, height 0.5918")
        assert title == "new: What is it about?"

    @pytest.mark.parametrize(
        ("ended", "done", "state"),
        [
            ("stopped", False, "stopped"),
            ("failed", False, "failed"),
            ("finished", True, "finished"),
            ("failed", True, "finished"),
            (None, True, "finished"),
            (None, False, "unfinished"),
        ],
    )
    def test_states(self, answer, run, ended, done, state):
        run(ended=ended, done=done)
        ((told,), _) = answer("list")
        assert told["state"] == state
        assert told["problem"] == ("PluginError: it broke" if state == "failed" else None)

    def test_one_that_crashed(self, answer, run):
        crash(run())
        ((told,), _) = answer("list")
        assert (told["state"], told["use"]["pid"], told["use"]["ended"]) == ("crashed", os.getpid(), None)

    def test_one_that_is_running(self, answer, run):
        lock = Lock.acquire(run(done=True))
        ((told,), _) = answer("list")
        lock.release()
        assert (told["state"], told["use"]["pid"]) == ("running", os.getpid())

    def test_for_a_program(self, answer, run, folder):
        path = run(title="T")
        ((told,), code) = answer("list")
        assert code == 0
        assert told["name"] == "first"
        assert told["folder"] == str(path.relative_to(folder))
        assert (told["title"], told["step"], told["saved"], told["steps"]) == ("T", 4, 4, 8)
        assert (told["split"], told["results"]) == (
            "validation",
            {"side": ["accuracy", 0.875], "height": ["mse", told["results"]["height"][1]]},
        )
        assert told["bytes"] == sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
        assert told["changed"].endswith("+00:00")

    def test_those_of_a_baseline(self, answer, run):
        run("first")
        run("first-baseline/seed-0/together")
        told, _ = answer("list")
        assert {each["name"] for each in told} == {"first", "first-baseline/seed-0/together"}

    def test_what_is_no_run(self, answer, run, folder):
        run()
        (folder / "runs" / "other").mkdir()
        (folder / "runs" / "file").touch()
        (folder / "runs" / ".hidden").mkdir()
        shutil.copytree(GOLDEN, folder / "runs" / ".first.01234567.new")
        (folder / "runs" / "link").symlink_to("first")
        told, _ = answer("list")
        assert [each["name"] for each in told] == ["first"]

    @pytest.mark.parametrize(
        ("name", "content"),
        [("config.yaml", "a: [\n"), ("config.yaml", "- 3\n"), ("done.json", "{"), ("environment.json", "[" * 9999)],
    )
    def test_one_that_is_damaged(self, mtlkit, run, name, content):
        (run() / name).write_text(content, encoding="utf-8")
        done = mtlkit("runs", "list")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[1].split()[:2] == ["first", "damaged"]
        assert done.stderr.startswith("first is damaged: ")
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        "content", ['{"a": 1}\n', "{", '{"event": "evaluation", "tasks": [1]}\n', '{"step": "x"}\n[]\n']
    )
    def test_records_of_any_kind(self, answer, run, content):
        (run() / "metrics.jsonl").write_text(content, encoding="utf-8")
        ((told,), _) = answer("list")
        assert (told["step"], told["results"]) == (4, {})  # as the checkpoint says

    def test_its_words_command_no_terminal(self, mtlkit, run):
        run(title='"\\e]0;owned\\a"')
        assert "\x1b" not in mtlkit("runs", "list").output
        assert "\x1b" not in mtlkit("runs", "show", "runs/first").output

    def test_nothing(self, mtlkit, folder):
        (folder / "runs").mkdir()
        assert mtlkit("runs", "list").stdout == "There are no runs in runs.\n"
        done = mtlkit("runs", "list", "nowhere")
        assert done.exit_code == 2
        assert "There is no folder nowhere" in done.stderr


class TestShow:
    def test_for_a_person(self, mtlkit, run):
        run(title="About").joinpath("history.jsonl").write_text(
            '{"time": "2026-01-02T03:04:05+00:00", "event": "changed", '
            '"changes": [{"setting": "training.steps", "before": 4, "after": 8}]}\n'
            '{"time": "2026-01-02T03:04:05+00:00", "event": "resumed", '
            '"step": 2, "differences": ["torch was 1 and is 2"]}\n',
            encoding="utf-8",
        )
        done = mtlkit("runs", "show", "runs/first")
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[0] == "runs/first  About"
        assert lines[1].startswith("stopped, at step 4/8, ")
        assert "It goes on with: mtlkit resume runs/first" in lines
        rows = [line.split() for line in lines]
        assert ["tasks", "side,", "height"] in rows
        assert ["side", "accuracy", "0.8750"] in rows
        assert any(row[:2] == ["checkpoints/step-000004", "4"] for row in rows)
        assert any(row[:2] == ["best", "4"] for row in rows)
        assert any(line.endswith("changed            training.steps: 4 → 8") for line in lines)
        assert any(line.endswith("resumed at step 2  torch was 1 and is 2") for line in lines)

    def test_for_a_program(self, answer, run):
        run(done=True)
        told, code = answer("show", "runs/first")
        assert code == 0
        assert told["config"]["training"]["steps"] == 8
        assert told["done"] == DONE
        assert [each["name"] for each in told["checkpoints"]] == ["checkpoints/step-000004", "best"]
        assert told["environment"]["torch"]

    def test_one_in_use_says_by_whom(self, mtlkit, run):
        lock = Lock.acquire(run())
        done = mtlkit("runs", "show", "runs/first")
        lock.release()
        assert f"In use by process {os.getpid()} on" in done.stdout
        assert "mtlkit resume" not in done.stdout

    def test_what_is_none(self, mtlkit, run, folder):
        (folder / "runs").mkdir()
        (folder / "link").symlink_to(run())
        for name, reason in [("nowhere", "there is none"), ("runs", "no config.yaml"), ("link", "is a symbolic link")]:
            done = mtlkit("runs", "show", name)
            assert done.exit_code == 5
            assert reason in done.stderr

    def test_one_that_is_damaged(self, mtlkit, run):
        (run() / "config.yaml").write_text("tasks: 3\n", encoding="utf-8")
        done = mtlkit("runs", "show", "runs/first")
        assert done.exit_code == 5
        assert "The run runs/first is damaged: Cannot use 3 (integer) at tasks" in done.stderr


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


STEP = "checkpoints/step-000004"


class TestVerify:
    def test_for_a_person(self, mtlkit, run, folder):
        run(done=True)
        before = contents(folder / "runs")
        done = mtlkit("runs", "verify", "runs/first")
        assert done.exit_code == 0, done.output
        lines = [line.split() for line in done.stdout.splitlines()]
        assert lines[1] == ["runs/first", "config.yaml,", "environment.json", "whole"]
        assert [line[0] for line in lines[2:-1]] == [STEP, "best", "done.json", "metrics.jsonl", "timings.jsonl"]
        assert done.stdout.endswith("All 6 are whole.\n")
        assert contents(folder / "runs") == before

    @pytest.mark.parametrize("harm", [flip, cut, Path.unlink], ids=["flip", "cut", "unlink"])
    @pytest.mark.parametrize(
        "name",
        [
            "metrics.jsonl",
            "best/weights.safetensors",
            "best/manifest.json",
            *(f"{STEP}/{each}" for each in ("manifest.json", "weights.safetensors", "state.safetensors", "state.json")),
        ],
    )
    def test_names_what_is_damaged(self, mtlkit, run, name, harm):
        harm(run(done=True) / name)
        self.check_named(mtlkit("runs", "verify", "runs/first"), Path(name).name)

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("config.yaml", "run: [\n"),
            ("config.yaml", "tasks: []\n"),
            ("environment.json", "{"),
            ("done.json", "{"),
            ("done.json", json.dumps(DONE | {"best_step": 2})),
            ("done.json", json.dumps(DONE | {"test": None})),
            ("timings.jsonl", "3\n"),
            ("history.jsonl", '{"event": '),
        ],
    )
    def test_names_what_says_something_else(self, mtlkit, run, name, content):
        (run(done=True) / name).write_text(content, encoding="utf-8")
        self.check_named(mtlkit("runs", "verify", "runs/first"), name)

    def check_named(self, done, name):
        assert done.exit_code == 5
        assert "1 of " in done.stdout
        assert name in done.stdout.splitlines()[-1]
        assert "Traceback" not in done.output

    def test_for_a_program(self, answer, run):
        flip(run() / STEP / "state.json")
        (told,), code = answer("verify")
        assert code == 5
        assert list(told["damaged"]) == [STEP]
        assert "state.json is damaged: its SHA-256" in told["damaged"][STEP]
        assert "best" in told["whole"]

    def test_a_checkpoint_under_another_name(self, answer, run):
        path = run()
        (path / STEP).rename(path / "checkpoints" / "step-000003")
        (told,), code = answer("verify", "runs/first")
        assert code == 5
        assert "is of step 4 by its manifest.json" in told["damaged"]["checkpoints/step-000003"]

    def test_best_weights_that_are_gone(self, answer, run):
        shutil.rmtree(run(done=True) / "best")
        (told,), code = answer("verify", "runs/first")
        assert code == 5
        assert "there is no best/" in told["damaged"]["done.json"]

    def test_a_last_line_that_a_crash_cut(self, mtlkit, run):
        path = run()
        with (path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"event": "st')
        done = mtlkit("runs", "verify", "runs/first")
        assert done.exit_code == 0, done.output
        assert "metrics.jsonl is cut in line 7, which is made again when the run goes on." in done.stderr
        (path / "done.json").write_text(json.dumps(DONE), encoding="utf-8")
        assert mtlkit("runs", "verify", "runs/first").exit_code == 5

    def test_one_that_is_running_is_read_all_the_same(self, mtlkit, run):
        lock = Lock.acquire(run())
        done = mtlkit("runs", "verify", "runs/first")
        lock.release()
        assert done.exit_code == 0, done.output
        assert "It is running" in done.stderr

    def test_a_replacement_that_was_cut_off_is_not_meddled_with(self, mtlkit, run, folder):
        """A process that is about to put new weights in the place of these would not find them where it left them."""
        path = run()
        (path / "best").rename(path / ".best.old")
        before = contents(folder / "runs")
        assert mtlkit("runs", "verify", "runs/first").exit_code == 0
        assert contents(folder / "runs") == before

    def test_all_of_a_folder_and_some_by_name(self, answer, run):
        for name in ("a", "b", "c/d"):
            run(name)
        assert len(answer("verify")[0]) == 3
        assert len(answer("verify", "runs/a", "runs/c", "runs/a")[0]) == 2

    def test_what_is_none(self, mtlkit):
        done = mtlkit("runs", "verify", "nowhere")
        assert done.exit_code == 5
        assert "nowhere is no run folder" in done.stderr


class TestClean:
    @pytest.fixture
    def littered(self, run, folder):
        """Two runs, one finished and one with a damaged checkpoint, and what crashes left of both and of a third."""
        finished, other = run("finished", done=True), run("other")
        shutil.copytree(other / STEP, other / "checkpoints" / "step-000006")
        flip(other / "checkpoints" / "step-000006" / "weights.safetensors")
        shutil.copytree(other / STEP, other / "checkpoints" / ".step-000008.tmp")
        (other / "checkpoints" / ".step-000004.old").mkdir()
        (finished / ".config.yaml.tmp").write_text("a", encoding="utf-8")
        unborn = folder / "runs" / ".third.0123abcd.new"
        unborn.mkdir()
        crash(unborn)
        return folder / "runs"

    LEFT = ("other/checkpoints/.step-000008.tmp", "other/checkpoints/.step-000004.old", "finished/.config.yaml.tmp")
    UNBORN = ".third.0123abcd.new"

    @pytest.mark.parametrize(
        ("options", "also"),
        [
            ([], []),
            (["--damaged"], ["other/checkpoints/step-000006"]),
            (["--finished"], [f"finished/{STEP}"]),
            (["--damaged", "--finished"], ["other/checkpoints/step-000006", f"finished/{STEP}"]),
        ],
    )
    def test_removes_what_it_is_asked_to(self, answer, littered, options, also):
        kept = {path for path in littered.rglob("*") if path.is_file()}
        told, code = answer("clean", *options, "--yes")
        assert code == 0
        gone = {littered / name for name in [*self.LEFT, self.UNBORN, *also]}
        assert {Path(each).resolve() for each in told["removed"]} == {path.resolve() for path in gone}
        left = {path for path in kept if not any(path.is_relative_to(each) for each in gone)}
        assert {path for path in littered.rglob("*") if path.is_file()} == left
        assert told["bytes"] == sum(each["bytes"] for each in told["planned"])
        again, _ = answer("clean", *options, "--yes")
        assert again["planned"] == []

    def test_a_dry_run_says_so_and_changes_nothing(self, mtlkit, littered):
        before = contents(littered)
        done = mtlkit("runs", "clean", "--dry-run", "--damaged", "--finished")
        assert done.exit_code == 0, done.output
        rows = [line.split() for line in done.stdout.splitlines()]
        assert any(row[0] == "runs/other/checkpoints/step-000006" and row[1] == "damaged" for row in rows)
        assert any(row[0] == f"runs/finished/{STEP}" and row[1:5] == ["of", "a", "finished", "run"] for row in rows)
        assert any(row[0] == f"runs/{self.UNBORN}" and row[1:4] == ["never", "came", "to"] for row in rows)
        assert "That would free" in done.stdout
        assert "step-000006/weights.safetensors is damaged: its SHA-256" in done.stderr
        assert contents(littered) == before

    @pytest.mark.parametrize(("reply", "code", "said"), [("n\n", 0, "Nothing was removed."), ("", 2, "Say --yes")])
    def test_asks_first(self, littered, reply, code, said):
        from click.testing import CliRunner

        from mtlkit.cli import main

        before = contents(littered)
        done = CliRunner().invoke(main, ["runs", "clean"], input=reply)
        assert done.exit_code == code, done.output
        assert "Remove these, which frees" in done.stderr
        assert said in done.output
        assert contents(littered) == before
        done = CliRunner().invoke(main, ["runs", "clean"], input="y\n")
        assert done.exit_code == 0, done.output
        assert "Removed 4 of 4, which freed" in done.stdout

    def test_a_program_says_yes_beforehand(self, answer, littered):
        told, code = answer("clean")
        assert code == 2
        assert "cannot be asked with --json" in told["error"]["message"]

    def test_a_run_in_use_is_let_be(self, mtlkit, littered):
        lock = Lock.acquire(littered / "other")
        before = contents(littered / "other")
        done = mtlkit("runs", "clean", "--yes", "--damaged", "--finished")
        assert done.exit_code == 0, done.output
        assert "runs/other is in use, and is let be." in done.stderr
        assert contents(littered / "other") == before
        assert not (littered / "finished" / STEP).exists()
        lock.release()

    def test_a_run_that_goes_on_meanwhile_is_let_be(self, littered):
        from mtlkit import runs

        items, in_use = runs.plan(Path("runs"), damaged=True)
        assert in_use == []
        lock = Lock.acquire(littered / "other")
        removed, in_use = runs.remove(items, damaged=True)
        lock.release()
        assert in_use == [Path("runs/other")]
        assert not any(item.run == Path("runs/other") for item in removed)
        assert (littered / "other" / "checkpoints" / "step-000006").exists()

    def test_what_has_become_whole_meanwhile_stays(self, littered):
        from mtlkit import runs

        items, _ = runs.plan(Path("runs"), damaged=True)
        flip(littered / "other" / "checkpoints" / "step-000006" / "weights.safetensors")
        removed, _ = runs.remove(items, damaged=True)
        assert (littered / "other" / "checkpoints" / "step-000006").exists()
        assert len(removed) == 4

    def test_what_another_process_is_making_is_let_be(self, answer, folder):
        unborn = folder / "runs" / ".third.0123abcd.new"
        unborn.mkdir(parents=True)
        assert answer("clean")[0]["planned"] == []  # it may be about to take its lock
        lock = Lock.acquire(unborn)
        assert answer("clean")[0]["planned"] == []
        lock._drop()
        assert len(answer("clean", "--dry-run")[0]["planned"]) == 1

    def test_the_last_checkpoints_stay_be_they_damaged(self, answer, run):
        """Without them the run would begin anew, and nobody would know why."""
        flip(run() / STEP / "state.json")
        assert answer("clean", "--damaged", "--yes")[0]["planned"] == []

    def test_the_only_copy_of_the_best_weights_stays(self, answer, run):
        path = run()
        (path / "best").rename(path / ".best.old")
        assert answer("clean", "--yes")[0]["planned"] == []

    def test_a_link_is_removed_and_not_what_it_leads_to(self, answer, run, folder):
        (folder / "mine").mkdir()
        (folder / "mine" / "thesis").touch()
        (run() / "checkpoints" / ".step-000009.tmp").symlink_to(folder / "mine")
        told, _ = answer("clean", "--yes")
        assert len(told["removed"]) == 1
        assert (folder / "mine" / "thesis").exists()

    def test_leaves_the_word_of_how_a_run_ended(self, answer, run):
        path = run(ended="failed")
        (path / ".done.json.tmp").touch()
        before = (path / "lock.json").read_bytes()
        assert len(answer("clean", "runs/first", "--yes")[0]["removed"]) == 1
        assert (path / "lock.json").read_bytes() == before

    def test_nothing_to_do(self, mtlkit, run):
        run()
        assert mtlkit("runs", "clean").stdout == "There is nothing to remove.\n"


@pytest.mark.parametrize("command", ["list", "show", "clean"])
def test_quick_ones_need_no_torch(run, folder, command):
    """Not only their help: to list and to show runs reads small files alone."""
    import subprocess
    import sys

    run()
    program = (
        "import sys\nfrom mtlkit.cli import main\ntry:\n    main(prog_name='mtlkit')\nexcept SystemExit as stop:\n"
        "    assert not stop.code\nassert 'torch' not in sys.modules"
    )
    target = ["runs/first"] if command == "show" else []
    subprocess.run([sys.executable, "-c", program, "runs", command, *target], check=True, cwd=folder, timeout=60)
