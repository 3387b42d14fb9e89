"""Runs in float16: the losses are scaled, and steps whose gradient overflows are skipped."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from mtlkit.engine import checkpoint
from mtlkit.engine.step import LEAST_SCALE
from mtlkit.errors import NonFiniteError, Stopped

HALF = {"precision": "float16"}
TASKS = ["steep", {"name": "steep", "label": "again"}]
FIRST_SCALE = 2.0**16  # of torch's GradScaler


@pytest.fixture(name="steep")
def fixture_steep(toy):
    """A task whose gradients leave float16 until the scale has been halved a few times."""

    class Steep(toy.Distance):
        def loss(self, output, target):
            return 200 * super().loss(output.float(), target)

    return Steep


def weights_at(run, step):
    return load_file(run.folder / "checkpoints" / f"step-{step:06d}" / "weights.safetensors")


@pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm", "mgda", "famo", "moco"])
def test_it_trains_as_float32_does(train, records, toy, strategy):
    class Gentle(toy.Distance):
        def loss(self, output, target):
            return 0.1 * super().loss(output.float(), target)

    losses = {}
    for precision in ("float32", "float16"):
        settings = {"precision": precision, "steps": 5, "clip_norm": 1.0, "accumulate": 2}
        tasks = ["gentle", {"name": "gentle", "label": "again", "options": {"seed": 1}}]
        run = train(
            run={"name": precision},
            tasks_given={"gentle": Gentle},
            tasks=tasks,
            strategy=strategy,
            training=settings,
        )
        assert {tensor.dtype for tensor in weights_at(run, 5).values()} == {torch.float32}
        steps = records(run.folder, "step")
        assert [step["skipped"] for step in steps] == [0] * 5
        losses[precision] = [loss for step in steps for loss in step["losses"].values()]
    assert losses["float16"] != losses["float32"]
    assert losses["float16"] == pytest.approx(losses["float32"], rel=0.01)


@pytest.mark.parametrize("strategy", ["fixed", "gradnorm", "mgda", "famo"])
def test_steps_that_overflow_move_no_weight_and_are_counted(train, records, steep, strategy):
    run = train(
        tasks_given={"steep": steep},
        tasks=TASKS,
        strategy=strategy,
        training={**HALF, "steps": 12, "steps_per_epoch": 1},
        checkpoints={"keep": 12},
    )
    skipped = [step["skipped"] for step in records(run.folder, "step")]
    assert 0 < skipped[-1] < 12
    before, scale = None, FIRST_SCALE
    for step, (so_far, earlier) in enumerate(zip(skipped, [0, *skipped], strict=False), 1):
        now = weights_at(run, step)
        state = checkpoint.load_state(run.folder / "checkpoints" / f"step-{step:06d}")
        if so_far > earlier:
            scale /= 2
            assert before is None or all(torch.equal(before[name], now[name]) for name in now)
        else:
            assert before is None or any(not torch.equal(before[name], now[name]) for name in now)
        assert state["scaler"]["scale"] == scale
        before = now
    assert all(math.isfinite(result.loss) for result in run.results.values())


def test_a_strategy_hears_of_no_step_that_was_not_taken(train, steep):
    """Nothing fell in it, so nothing is to be learned from how far."""
    run = train(
        tasks_given={"steep": steep},
        tasks=TASKS,
        strategy="famo",
        training={**HALF, "steps": 1, "steps_per_epoch": 1},
    )
    state = checkpoint.load_state(run.folder / "checkpoints" / "step-000001")
    assert state["progress"]["skipped"] == 1
    assert state["strategy"]["descent.steps"].tolist() == [0.0, 0.0]


def test_gradients_that_overflow_are_not_sampled(train, records, steep):
    run = train(
        tasks_given={"steep": steep},
        tasks=TASKS,
        strategy="mgda",
        diagnostics={"every": 1},
        training={**HALF, "steps": 12, "steps_per_epoch": 4},
    )
    sampled = [record["step"] for record in records(run.folder, "gradients")]
    skipped = [step["skipped"] for step in records(run.folder, "step")]
    taken = {n for n, (now, before) in enumerate(zip(skipped, [0, *skipped], strict=False), 1) if now == before}
    assert taken
    assert taken <= set(sampled)
    assert len(sampled) < 12


def test_a_run_that_was_stopped_ends_as_one_that_was_not(train, steep):
    settings = {
        "tasks_given": {"steep": steep},
        "tasks": TASKS,
        "strategy": "gradnorm",
        "training": {**HALF, "accumulate": 2},
    }

    def stop(event):
        if getattr(event, "step", 0) == 3:
            raise Stopped("here", 0)

    whole = train(run={"name": "whole"}, **settings)
    with pytest.raises(Stopped):
        train(run={"name": "stopped"}, listeners=[stop], checkpoints={"every": 1}, **settings)
    resumed = train(run={"name": "stopped"}, resume=True, checkpoints={"every": 1}, **settings)
    for name in ("metrics.jsonl", "best/weights.safetensors"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize("strategy", ["fixed", "gradnorm"])
def test_a_gradient_that_is_not_finite_at_any_scale_ends_the_run(train, toy, strategy):
    class Broken(toy.Distance):
        def loss(self, output, target):
            return super().loss(output, target) + (0 * output.sum()).abs().sqrt()  # its derivative is 0 / 0

    with pytest.raises(NonFiniteError, match=r"Non-finite gradient of 'broken', in step (\d+) .* the run is saved"):
        train(
            tasks_given={"broken": Broken},
            tasks=["side", "broken"],
            strategy=strategy,
            training={**HALF, "steps": 60, "steps_per_epoch": 20},
        )
    assert FIRST_SCALE * 0.5**60 < LEAST_SCALE
