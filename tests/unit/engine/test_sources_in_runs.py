"""Runs over sources of every kind: columns, mapped files, rows read one by one, streams; in memory or by workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import mtlkit
from mtlkit import errors
from mtlkit.data import StreamSplit
from mtlkit.engine import events

ALL = ["columns", "mapped", "rows", "stream"]
TRAINING = {"steps": 12, "steps_per_epoch": 4, "batch_size": 8, "log_every": 1, "threads": 1, "device": "cpu"}


@pytest.fixture(name="cellar")
def fixture_cellar(install):
    """Install the distribution whose task has rows of every kind."""
    return install("acme-rows", entry_points={"tasks": {"sweetness": "acme_rows:sweetness"}}, modules=("acme_rows",))


@pytest.fixture(name="settings")
def fixture_settings(cellar, tmp_path):
    """Return a function that makes a configuration of tasks of some kinds."""

    def settings(kinds, *, name="run", loading=(), **given):
        (tmp_path / "mapped").mkdir(exist_ok=True)
        options = given.pop("options", {})
        return {
            "run": {"name": name, "dir": str(tmp_path / "runs")},
            "tasks": [
                {
                    "name": "acme-rows:sweetness",
                    "label": kind,
                    "options": {"kind": kind, "seed": seed, "folder": str(tmp_path / "mapped"), **options},
                }
                for seed, kind in enumerate(kinds)
            ],
            "encoder": {"name": "mlp", "layers": [8]},
            "training": {**TRAINING, **given.pop("training", {})},
            "evaluation": {"batch_size": 16},
            "loading": {"workers": 0, **dict(loading)},
            **given,
        }

    return settings


def left(folder):
    """Return everything that a run's numbers are in."""
    names = ("metrics.jsonl", "best/weights.safetensors")
    return [(folder / name).read_bytes() for name in names]


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


WAYS = {
    "when they are drawn": {"memory": "never"},
    "by a fork": {"memory": "never", "workers": 1, "start": "fork"},
    "by forks": {"memory": "never", "workers": 3, "start": "fork", "prefetch": 1},
    "above a limit": {"memory": 1},
    "all in memory": {"memory": "always"},
}


def test_a_run_is_the_same_however_its_rows_are_read(settings):
    expected = left(mtlkit.train(settings(ALL)).folder)
    for way, loading in WAYS.items():
        run = mtlkit.train(settings(ALL, name=way.replace(" ", "-"), loading=loading))
        assert left(run.folder) == expected, way
        assert all(result.rows for result in run.results.values())


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_run_is_the_same_where_workers_make_the_task_anew(settings, start):
    expected = left(mtlkit.train(settings(ALL)).folder)
    loading = {"memory": "never", "workers": 2, "start": start}
    assert left(mtlkit.train(settings(ALL, name=start, loading=loading)).folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_script_that_trains_is_not_run_again_by_its_workers(settings, tmp_path, start):
    config = settings(["rows"], loading={"memory": "never", "workers": 1, "start": start}, training={"steps": 2})
    script = tmp_path / "script.py"
    script.write_text(f"import mtlkit\nprint(mtlkit.train({config!r}).steps, flush=True)\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, check=False, capture_output=True, text=True, timeout=300
    )
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("stopped_at", [3, 7])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_bit_for_bit_from_the_middle(settings, workers, stopped_at):
    def stop(event):
        if isinstance(event, events.StepFinished) and event.step == stopped_at:
            raise KeyboardInterrupt  # as if the machine went down: nothing is saved after it

    loading = {"memory": "never", "workers": workers, "start": "fork"}
    checkpoints = {"checkpoints": {"every": 1}, "training": {"steps_per_epoch": 2}}
    straight = mtlkit.train(settings(ALL, name="straight", loading=loading, **checkpoints))
    broken = settings(ALL, name="broken", loading=loading, **checkpoints)
    with pytest.raises(KeyboardInterrupt):
        mtlkit.train(broken, listeners=[stop])
    assert left(mtlkit.train(broken, resume=True).folder) == left(straight.folder)


def test_a_run_may_go_on_with_its_rows_read_in_another_way(settings):
    straight = mtlkit.train(settings(ALL, name="straight"))

    def stop(event):
        if isinstance(event, events.StepFinished) and event.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mtlkit.train(settings(ALL, name="other"), listeners=[stop])
    loading = {"memory": "never", "workers": 2, "start": "fork"}
    assert left(mtlkit.train(settings(ALL, name="other", loading=loading), resume=True).folder) == left(straight.folder)


def test_tasks_of_one_source_share_what_is_read(settings, tmp_path):
    config = settings(["rows"], options={"log": str(tmp_path)}, loading={"memory": "never"})
    config["tasks"] = [{**config["tasks"][0], "label": label} for label in ("a", "b")]
    experiment = mtlkit.build(config)
    (group,) = experiment.groups
    assert group.tasks == (0, 1)
    assert group.stream.next().targets["n"].shape == (8,)


FAULTS = {
    "killed": "A worker process was killed by SIGKILL while reading row 23 of 'train'",
    "exits": "A worker process ended with status 3 while reading row 23 of 'train'",
    "raises": "Row 23 of 'train' raised RuntimeError: the label came off",
    "hangs": "A worker process was still reading row 23 of 'train' after 1 s, which is loading.timeout",
}


class TestFaults:
    def broken(self, settings, tmp_path, kind, fault, **loading):
        (tmp_path / "pids").mkdir(exist_ok=True)
        loading = {"memory": "never", "workers": 2, "timeout": 1.0, **loading}
        options = {"fault": fault, "at": 23, "log": str(tmp_path / "pids")}
        return settings([kind, "columns"], name=f"{kind}-{fault}", options=options, loading=loading)

    def check(self, error, tmp_path, kind, fault):
        told = f"The rows of task '{kind}' (acme-rows 1.0, entry point mtlkit.tasks: sweetness = acme_rows:sweetness)"
        assert str(error).startswith(f"{told} cannot be read. {FAULTS[fault]}")
        assert error.exit_code == 4
        pids = {int(path.name) for path in (tmp_path / "pids").iterdir()} - {os.getpid()}
        assert pids
        assert all(map(is_gone, pids))

    @pytest.mark.parametrize("kind", ["rows", "stream"])
    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_worker_that_breaks_ends_the_run(self, settings, tmp_path, kind, fault, capfd):
        config = self.broken(settings, tmp_path, kind, fault, start="fork")
        with pytest.raises(errors.DataError) as raised:
            mtlkit.train(config)
        self.check(raised.value, tmp_path, kind, fault)
        assert capfd.readouterr().err == ""

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_run_that_broke_goes_on_and_breaks_again(self, settings, tmp_path, fault):
        """The row is one that only the evaluation reads, at the end of the first epoch."""
        config = self.broken(settings, tmp_path, "rows", fault, start="fork")
        config["tasks"] = config["tasks"][:1]
        config["tasks"][0]["options"]["at"] = self.evaluated(config)
        for resume in (False, True):
            with pytest.raises(errors.DataError, match="of 'train'") as raised:
                mtlkit.train(config, resume=resume)
            assert raised.value.exit_code == 4
        pids = {int(path.name) for path in (tmp_path / "pids").iterdir()} - {os.getpid()}
        assert all(map(is_gone, pids))

    def evaluated(self, config):
        """Return the number of a row that is evaluated on, and not among those that are tried before the first step."""
        sound = {**config, "tasks": [{**config["tasks"][0], "options": {**config["tasks"][0]["options"], "fault": ""}}]}
        split = mtlkit.build(sound).groups[0].splits["validation"].split
        return split.number(len(split) - 1)


def test_what_reads_the_rows_is_written_down(settings):
    for loading, expected in (
        ({"workers": 2, "start": "fork"}, (1, "fork")),
        ({"memory": "never", "workers": 3, "start": "fork"}, (4, "fork")),
        ({"memory": "never"}, (0, None)),
    ):
        name = str(len(loading))
        run = mtlkit.train(settings(["columns", "rows", "stream"], name=name, loading=loading, training={"steps": 1}))
        written = json.loads((run.folder / "environment.json").read_text())
        workers, start = expected
        assert written["start_method"] == start, loading
        assert written["workers"] == workers


def test_a_run_of_a_stream_of_unknown_length_says_how_long_an_epoch_is(registry_with, toy, configure):
    class Endless(toy.Points):
        def splits(self):
            given = super().splits()
            train = given["train"]

            def rows_from(start):
                for row in range(start, len(train)):
                    yield train.inputs[row], {name: column[row] for name, column in train.targets.items()}

            return {**given, "train": StreamSplit(rows_from)}

    class Side(toy.Side):
        def source(self):
            return Endless()

    registry = registry_with(side=Side)
    config = configure(tasks=["side"], loading={"workers": 0})
    assert mtlkit.train(config, registry=registry).results["side"].rows == 45
    config["training"] = {key: value for key, value in config["training"].items() if key != "steps_per_epoch"}
    config["run"] = {**config["run"], "name": "other"}
    with pytest.raises(errors.ConfigError, match=r"training\.steps_per_epoch"):
        mtlkit.train(config, registry=registry)


def test_rows_may_be_drawn_by_a_column_that_can_be_seen(settings):
    sampled = {"sampling": {"weights": "n"}}
    for kind in ("columns", "mapped", "rows"):
        config = settings([kind])
        config["tasks"][0] |= sampled
        numbers = mtlkit.build(config).groups[0].stream.next().targets["n"]
        assert 0 not in numbers.tolist()
    for kind in ("rows", "stream"):
        config = settings([kind], loading={"memory": "never"})
        config["tasks"][0] |= sampled
        with pytest.raises(errors.ConfigError, match=r"by the column 'n', and they are not in memory.*loading\.memory"):
            mtlkit.build(config)


def test_check_reads_some_rows_of_every_kind(settings, tmp_path):
    _, experiment, audit = mtlkit.app.inspect(settings(ALL, loading={"memory": "never"}))
    assert [told["task"] for told in audit.tasks] == ALL
    assert all(told["train"] > 20 for told in audit.tasks)
    assert not audit.has_errors
    assert experiment.workers == 0
    assert torch.is_tensor(experiment.groups[0].splits["train"].take(torch.arange(2)).inputs)
