"""Every strategy that ships, in runs of a few steps: they finish, and go on bit for bit where they were stopped."""

import math
import os
import signal

import pytest
from safetensors.torch import load_file

from mtlkit.builtins import BUILTINS
from mtlkit.engine import events
from mtlkit.errors import Stopped

STRATEGIES = [name for kind, name, _ in BUILTINS if kind == "strategies"]
SHARED = ["side", "distance"]  # one source, so one batch for both
APART = ["side", {"name": "distance", "options": {"rows": 50, "seed": 2}}]
SPARSE = [{"name": each, "options": {"gaps": 2}} for each in SHARED]  # so that a small batch may lack a task

FEW = {"steps": 8, "steps_per_epoch": 2, "batch_size": 8}  # four epochs: dwa weighs all alike in the first two
# What a run must be able to go on with: logits and a step that is watched, epoch averages, generators, a walk, state
# of the size of the gradients, held-out rows; all of it in the middle of an epoch, with passes accumulated.
KEEPING = [
    pytest.param({"name": "auto-lambda", "lr": 0.01}, id="auto-lambda"),
    "db-mtl",
    "dwa",
    "excess-mtl",
    "famo",
    "graddrop",
    "gradvac",
    "imtl",
    "moco",
    "modo",
    "moml",
    "pcgrad",
    "rlw",
    pytest.param({"name": "stch", "warmup": 10}, id="stch"),
]


@pytest.fixture(name="stop")
def fixture_stop(train):
    """Return a function that starts a run and stops it after a step."""

    def stop(step, **settings):
        def listen(event):
            if isinstance(event, events.StepFinished) and event.step == step:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(Stopped):
            train(listeners=[listen], **settings)

    return stop


def outcome(folder):
    """Return what must not depend on whether a run was stopped."""
    (*_, newest) = sorted((folder / "checkpoints").iterdir())
    names = ("weights.safetensors", "state.safetensors")
    paths = [folder / "metrics.jsonl", folder / "best" / "weights.safetensors", *(newest / name for name in names)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("tasks", [SHARED, APART], ids=["shared", "apart"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_finishes_with_all_finite(train, records, strategy, tasks):
    run = train(strategy=strategy, tasks=tasks, training=FEW)
    steps = records(run.folder, "step")
    assert len(steps) == 8
    for step in steps:
        assert step["weights"].keys() == {"side", "distance"}
        assert all(math.isfinite(value) for value in [*step["weights"].values(), *step["losses"].values()])
    for result in run.results.values():
        assert math.isfinite(result.loss)
        assert all(math.isfinite(value) for value in result.metrics.values())
    weights = load_file(run.folder / "best" / "weights.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_task_may_be_absent_from_a_step(train, records, strategy):
    run = train(strategy=strategy, tasks=SPARSE, training=FEW | {"batch_size": 2})
    steps = records(run.folder, "step")
    assert any(len(step["weights"]) == 1 for step in steps)
    assert any(len(step["weights"]) == 2 for step in steps)
    assert all(math.isfinite(value) for step in steps for value in step["weights"].values())
    assert all(value.isfinite().all() for value in load_file(run.folder / "best" / "weights.safetensors").values())


@pytest.mark.parametrize("tasks", [SHARED, APART], ids=["shared", "apart"])
@pytest.mark.parametrize("strategy", KEEPING)
def test_going_on_ends_as_if_never_stopped(train, stop, strategy, tasks):
    settings = {"strategy": strategy, "tasks": tasks, "training": FEW | {"accumulate": 2}}
    whole = train(run={"name": "whole"}, **settings)
    stop(5, run={"name": "stopped"}, **settings)
    resumed = train(run={"name": "stopped"}, resume=True, **settings)
    assert outcome(resumed.folder) == outcome(whole.folder)
    assert resumed.results == whole.results


@pytest.mark.parametrize("strategy", ["rlw", "pcgrad", "gradvac", "graddrop"])
def test_what_is_drawn_comes_from_the_seed_of_the_run(train, weights, strategy):
    ends = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        settings = {"strategy": strategy, "tasks": APART, "training": FEW}
        ends.append(weights(train(run={"name": name, "seed": seed}, **settings).folder))
    assert ends[0] == ends[1] != ends[2]


def test_dwa_hears_of_epochs(train, records):
    steps = records(train(strategy="dwa", training=FEW).folder, "step")
    alike = [list(step["weights"].values()) == [1.0, 1.0] for step in steps]
    assert alike == [True] * 4 + [False] * 4


def test_famo_hears_of_the_step_that_was_taken(train, records):
    """Its weights move away from those of equal logits, which are in proportion to the inverse of the losses."""
    steps = records(train(strategy={"name": "famo", "lr": 0.5}, training=FEW).folder, "step")
    shares = []
    for step in steps:
        parts = [step["weights"][label] * step["losses"][label] for label in ("side", "distance")]
        shares.append(parts[0] / sum(parts))
    assert shares[0] == pytest.approx(0.5)
    assert max(abs(share - 0.5) for share in shares) > 0.05
