"""What the fuzzers found, each in the least configuration that shows it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from seeds import TINY

from mtlkit.cli import main
from mtlkit.registry import Registry

RUN = """\
tasks: [kind, size]
training: {steps: 1, batch_size: 8, device: cpu, threads: 1}
"""
LONG = "9" * 400

# What is laid over that configuration, the exit code, and what the message says.
FOUND = [
    # what no machine has the memory for
    (["encoder.layers=[1000000000]"], 2, ["more memory than there is", "encoder", "Make it smaller"]),
    (["encoder.layers=[1000000000, 1000000000]"], 2, ["more memory than there is"]),
    (["encoder.layers=[1000000000000]"], 2, ["at encoder.layers[0]", "less than or equal to 1000000000"]),
    (["architecture.name=mmoe", "architecture.experts=1000000000"], 2, ["at architecture.experts", "or equal to 1000"]),
    (["encoder=transformer", "encoder.depth=1000000000"], 2, ["at encoder.depth", "less than or equal to 1000"]),
    ([f"encoder.layers=[{', '.join(['4'] * 3000)}]"], 2, ["at encoder.layers", "at most 1000 items"]),
    (["transfer.freeze=1000000000000"], 2, ["at transfer.freeze", "less than or equal to 1000"]),
    # numbers that torch or a float cannot hold
    ([f"training.threads={LONG}"], 2, ["at training.threads", "less than or equal to 1024"]),
    ([f"training.steps={LONG}"], 2, ["at training.steps", "less than or equal to 1000000000000"]),
    ([f"training.batch_size={LONG}"], 2, ["at training.batch_size"]),
    (["strategy=stch", f"strategy.warmup={LONG}"], 2, ["at strategy.warmup"]),
    (["optimizer={name: rmsprop, lr: 1e300}"], 2, ["at optimizer.lr", "at most 3.4e+38"]),
    ([f"optimizer={{name: sgd, momentum: {LONG}}}"], 2, ["at optimizer.momentum"]),
    (["strategy={name: auto-lambda, primary: [kind], init: 1e300}"], 2, ["at strategy.init"]),
    (["schedule={name: step, milestones: [0.5], gamma: 1e300}"], 2, ["at schedule.gamma"]),
    ([f"schedule={{name: step, milestones: [{', '.join(['0.5'] * 2000)}]}}"], 2, ["at schedule.milestones"]),
    (["tasks.size.weight=1e308"], 2, ["at tasks[1].weight", "less than or equal to 1000000000000"]),
    # control characters, as a terminal would obey them
    (['tasks=[kind, {name: size, sampling: {weights: "\\u202egpj"}}]'], 2, [r"weights by '\u202egpj'"]),
    # a plugin's error, beside others, has its place too
    (["tasks=[kind, 'nowhere-mtl:wine']", "encoder.name=mpl"], 2, ["2 problems", "at tasks[1].name (command line: "]),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "code", "said"), FOUND, ids=[each[-1][:40] for each, _, _ in FOUND])
def test_is_refused_in_a_sentence(tmp_path, monkeypatch, overrides, code, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    for command in ("check", "train"):
        done = CliRunner().invoke(main, [command, "run.yaml", *overrides, "--plugin", str(TINY)])
        assert done.exit_code == code, done.output
        assert done.stderr.startswith("Error:")
        assert "Traceback" not in done.stderr
        for fragment in said:
            assert fragment in done.stderr


def test_a_step_of_a_million_passes_is_checked_by_a_few(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    given = ["check", "run.yaml", "--json", "--plugin", str(TINY)]
    seconds = [
        json.loads(CliRunner().invoke(main, [*given, f"training.accumulate={passes}"]).stdout)["cost"]["seconds"]
        for passes in (1, 1_000_000)
    ]
    assert seconds[1] > 10_000 * seconds[0]


def test_a_thousand_tasks_of_one_class_are_looked_up_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(f"tasks: [{', '.join(['kind'] * 1000)}]\nhook: 1\n", encoding="utf-8")
    looked_up = []
    load = Registry.load
    monkeypatch.setattr(Registry, "load", lambda self, record: looked_up.append(record.name) or load(self, record))
    done = CliRunner().invoke(main, ["check", "run.yaml", "--plugin", str(TINY)])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: 1000 problems.\n")
    assert done.stderr.endswith("\n  And 900 more, which --json tells.\n")
    assert len(done.stderr.splitlines()) == 102
    assert looked_up.count("kind") == 1


def test_threads_that_cannot_be_started_are_no_end_of_the_process(tmp_path, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    monkeypatch.setattr("threading.Thread.start", start)
    done = CliRunner().invoke(main, ["check", "run.yaml", "training.threads=1000", "--plugin", str(TINY)])
    assert done.exit_code == 2
    assert "This process cannot start 1000 threads at training.threads (command line: " in done.stderr


def test_a_strategy_of_a_plugin_that_fails_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    (tmp_path / "sour.py").write_text(
        "import mtlkit\n"
        "class Sour(mtlkit.Strategy):\n"
        "    def weights(self, losses, gramian=None, tasks=None):\n"
        "        raise ValueError('Residuals are not finite in the initial point.')\n"
        "sour = mtlkit.plugin(Sour)\n",
        encoding="utf-8",
    )
    given = ["--plugin", str(TINY), "--plugin", "sour.py"]
    for command in ("check", "train"):
        done = CliRunner().invoke(main, [command, "run.yaml", "strategy=sour", *given])
        assert done.exit_code == 3, done.output
        assert "Error: The strategy 'sour' failed (the file sour.py" in done.stderr
        assert "ValueError: Residuals are not finite" in done.stderr
