"""Every architecture that ships, in runs of a few steps: they finish, and go on bit for bit where they were stopped."""

import math
import os
import re
import signal

import pytest
import torch
from safetensors.torch import load_file

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.engine import events
from mtlkit.errors import ConfigError, Stopped

ARCHITECTURES = [name for kind, name, _ in BUILTINS if kind == "architectures"]
SHARED = ["side", "distance"]  # one source, so one batch for both
APART = ["side", {"name": "distance", "options": {"rows": 50, "seed": 2}}]
SPARSE = [{"name": each, "options": {"gaps": 2}} for each in SHARED]  # so that a small batch may lack a task
FEW = {"steps": 6, "steps_per_epoch": 3, "batch_size": 8}
# Stages for those that act between them, linear layers and norms for those that change them.
ENCODER = {"name": "tabular", "blocks": "residual", "width": 8, "depth": 2, "dropout": 0.2}
# What a run must be able to go on with: a temperature, and draws; gates that pay a penalty, of each row.
KEEPING = [
    pytest.param({"name": "ltb", "search": 8}, id="ltb in its search"),
    pytest.param({"name": "ltb", "search": 3}, id="ltb after it"),
    pytest.param({"name": "dselect-k", "gate": "per-example", "entropy": 1.0}, id="dselect-k"),
    "ple",
]


@pytest.mark.parametrize("tasks", [SHARED, APART, SPARSE], ids=["shared", "apart", "sparse"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_finishes_with_all_finite(train, records, architecture, tasks):
    few = FEW | ({"batch_size": 2} if tasks is SPARSE else {})
    run = train(architecture=architecture, encoder=ENCODER, strategy="gradnorm", tasks=tasks, training=few)
    assert len(records(run.folder, "step")) == 6
    for result in run.results.values():
        assert math.isfinite(result.loss)
    assert all(value.isfinite().all() for value in load_file(run.folder / "best" / "weights.safetensors").values())


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_may_be_of_another_precision(train, architecture, precision):
    few = FEW | {"steps": 2, "precision": precision}
    run = train(architecture=architecture, encoder=ENCODER, strategy="gradnorm", training=few)
    assert all(math.isfinite(result.loss) for result in run.results.values())


@pytest.mark.parametrize("architecture", KEEPING)
def test_going_on_ends_as_if_never_stopped(train, weights, architecture):
    def listen(event):
        if isinstance(event, events.StepFinished) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    settings = {"architecture": architecture, "encoder": ENCODER, "tasks": APART, "training": FEW | {"accumulate": 2}}
    whole = train(run={"name": "whole"}, **settings)
    with pytest.raises(Stopped):
        train(run={"name": "stopped"}, listeners=[listen], **settings)
    resumed = train(run={"name": "stopped"}, resume=True, **settings)
    assert weights(resumed.folder) == weights(whole.folder)
    assert (resumed.folder / "metrics.jsonl").read_bytes() == (whole.folder / "metrics.jsonl").read_bytes()
    assert resumed.results == whole.results


def test_the_penalty_of_the_gates_is_paid(train):
    """It pushes every digit of a code to an end of the smooth step, which the losses alone do not."""
    moved = []
    for entropy in (0.0, 10.0):
        name = f"entropy-{entropy}"
        run = train(run={"name": name}, architecture={"name": "dselect-k", "entropy": entropy}, training=FEW)
        (newest,) = sorted((run.folder / "checkpoints").iterdir())[-1:]
        codes = [value for key, value in load_file(newest / "weights.safetensors").items() if key.endswith(".codes")]
        moved.append(torch.stack(codes).abs())
    assert bool((moved[1] > 0.09).all())  # six steps of Adam at a rate of 0.02, all to one side
    assert not bool((moved[0] > 0.09).all())


@pytest.mark.parametrize("architecture", ["adapters", "lora", "task-embedding", "mtan"])
def test_an_encoder_that_was_trained_before_may_be_left_as_it_is(train, configure, registry_with, architecture):
    encoder = ENCODER | {"depth": 1}
    before = train(run={"name": "before"}, encoder=encoder, training=FEW)
    transfer = {"pretrained": str(before.folder), "freeze": 2}
    run = train(run={"name": "after"}, architecture=architecture, encoder=encoder, transfer=transfer, training=FEW)
    known, found = (load_file(each.folder / "best" / "weights.safetensors") for each in (before, run))
    kept = [name for name in found if name.startswith("architecture.encoder.")]
    assert kept
    assert all(torch.equal(found[name], known[name]) for name in kept)
    fresh = mtlkit.build(configure(architecture=architecture, encoder=encoder), registry=registry_with())
    began = fresh.model.state_dict()
    own = [name for name in found if name.startswith("architecture.") and name not in kept]
    assert any(not torch.equal(found[name], began[name]) for name in own)
    same = mtlkit.build(configure(architecture=architecture, encoder=encoder), registry=registry_with())
    assert all(torch.equal(began[name], value) for name, value in same.model.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        (
            "task-embedding",
            "Task-embedding scales and shifts in the LayerNorm and GroupNorm layers of an encoder, and MLP",
        ),
        ({"name": "ple", "levels": 3}, "Each of the 3 levels of ple takes a stage of the encoder, and MLP has 1"),
    ],
)
def test_an_encoder_that_cannot_be_served_is_an_error_of_the_architecture(configure, registry_with, architecture, said):
    with pytest.raises(ConfigError, match=f"{re.escape(said)}.* at architecture"):
        mtlkit.build(configure(architecture=architecture), registry=registry_with())
