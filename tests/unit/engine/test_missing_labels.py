"""Missing labels: training is what it would be with the terms of those rows left out by hand; absent tasks rest."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.engine import events
from mtlkit.engine.loop import fit
from mtlkit.engine.run import RunFolder
from mtlkit.engine.stopping import StopRequest

LEARNING = ("dwa", "famo", "gradnorm", "uncertainty")  # something of each task: state that must rest, and move
STRATEGIES = [
    pytest.param(name, marks=() if name in LEARNING else pytest.mark.slow)
    for kind, name, _ in BUILTINS
    if kind == "strategies"
]
MISSING = 7  # and not -100, which PyTorch's cross-entropy would leave out by itself
RATE = 0.1
STEPS = 40
BATCHES = 100


@pytest.fixture(name="halved")
def fixture_halved(toy):
    """Tasks on a source of which half of the training rows have no side."""

    class Halved(toy.Points):
        def splits(self):
            splits = super().splits()
            side = splits["train"].targets["side"]
            side[torch.randperm(len(side), generator=torch.Generator().manual_seed(5))[: len(side) // 2]] = MISSING
            return splits

    class Side(toy.Side):
        missing = MISSING

        def source(self):
            return Halved()

    class Distance(toy.Distance):
        def source(self):
            return Halved()

    return {"side": Side, "distance": Distance}


@pytest.fixture(name="settings")
def fixture_settings(configure):
    """Return a function that configures plain SGD in float64, batches of a size."""

    def settings(strategy, batch_size):
        return configure(
            strategy=strategy,
            optimizer={"name": "sgd", "lr": RATE},
            training={"steps": STEPS, "batch_size": batch_size, "precision": "float64"},
            checkpoints={"best": "last"},
        )

    return settings


def losses_of(weights: list[Tensor], batch: mtlkit.Split) -> dict[str, Tensor]:
    """Return the losses of a batch, each a mean over the terms that are left; none where no term is."""
    matrix, bias, side, side_bias, far, far_bias = weights
    features = F.relu(F.linear(batch.inputs, matrix, bias))
    scores, distances = F.linear(features, side, side_bias), F.linear(features, far, far_bias)
    terms = [-scores[row].log_softmax(0)[label] for row, label in enumerate(batch.targets["side"]) if label != MISSING]
    found = {"distance": ((distances - batch.targets["distance"]) ** 2).sum() / len(distances)}
    return ({"side": sum(terms) / len(terms)} if terms else {}) | found


class Equal:
    """Plain training: every weight is 1."""

    def weights(self, losses, last_layer):
        return dict.fromkeys(losses, 1.0)


class GradNorm:
    """GradNorm as the paper has it, by second derivatives, an Adam for each weight."""

    def __init__(self):
        self.w = {label: torch.ones((), dtype=torch.float64, requires_grad=True) for label in ("side", "distance")}
        self.adam = {label: torch.optim.Adam([weight], lr=0.025) for label, weight in self.w.items()}
        self.first = {}

    def weights(self, losses, last_layer):
        before = {label: self.w[label].item() for label in losses}
        norms, rates = {}, {}
        for label, loss in losses.items():
            (gradient,) = torch.autograd.grad(self.w[label] * loss, last_layer, create_graph=True)
            norms[label] = gradient.norm()
            rates[label] = loss.detach() / self.first.setdefault(label, loss.detach())
        mean_norm, mean_rate = (sum(each.values()) / len(losses) for each in (norms, rates))
        gaps = [(norms[label] - (mean_norm * (rates[label] / mean_rate) ** 1.5).detach()).abs() for label in losses]
        for label, gradient in zip(
            losses, torch.autograd.grad(sum(gaps), [self.w[each] for each in losses]), strict=True
        ):
            self.w[label].grad = gradient
            self.adam[label].step()
        scale = sum(before.values()) / sum(self.w[label].item() for label in losses)
        for label in losses:
            self.w[label].data.mul_(scale)
        return before


@pytest.mark.parametrize("batch_size", [16, 2], ids=["masked", "absent"])
@pytest.mark.parametrize(("strategy", "by_hand"), [("fixed", Equal), ("gradnorm", GradNorm)])
def test_half_of_the_labels_missing_is_their_terms_left_out(
    registry_with, settings, halved, strategy, by_hand, batch_size
):
    config, registry = settings(strategy, batch_size), registry_with(**halved)
    start = mtlkit.build(config, registry=registry)
    names = list(start.model.state_dict())
    weights = [value.clone().requires_grad_() for value in start.model.state_dict().values()]
    ours, absent = by_hand(), 0
    for _ in range(STEPS):
        losses = losses_of(weights, start.groups[0].stream.next())
        absent += "side" not in losses
        factors = ours.weights(losses, weights[0])
        total = sum(factors[label] * loss for label, loss in losses.items())
        for weight, gradient in zip(weights, torch.autograd.grad(total, weights, allow_unused=True), strict=True):
            if gradient is not None:
                weight.data.sub_(RATE * gradient)
    assert absent == 0 if batch_size == 16 else 5 < absent < 20
    run = mtlkit.train(config, registry=registry)
    trained = load_file(run.folder / "best" / "weights.safetensors")
    for name, weight in zip(names, weights, strict=True):
        torch.testing.assert_close(trained[name], weight.detach(), rtol=1e-9, atol=1e-12)


@pytest.fixture(name="rare")
def fixture_rare(configure, registry_with, toy):
    """Return a function that builds a run of five tasks, of which one has a label in one of a hundred batches."""

    class Rare(toy.Points):
        def splits(self):
            splits = super().splits()
            side = splits["train"].targets["side"]
            side[:17], side[18:] = -100, -100
            return splits

    class Side(toy.Side):
        def source(self):
            return Rare(rows=2 * BATCHES)

    class Distance(toy.Distance):
        def source(self):
            return Rare(rows=2 * BATCHES)

    def rare(strategy):
        tasks = ["distance", "side", *({"name": "distance", "label": label} for label in ("b", "c", "d"))]
        config = configure(
            strategy=strategy,
            tasks=tasks,
            encoder={"name": "mlp", "layers": [3]},
            training={"steps": BATCHES, "steps_per_epoch": BATCHES, "batch_size": 2, "log_every": 1},
            checkpoints={"best": "last"},
        )
        return mtlkit.build(config, registry=registry_with(side=Side, distance=Distance))

    return rare


def of_task(state: dict[str, Tensor], task: int, n_tasks: int) -> dict[str, Tensor]:
    """Return what is a task's own of a strategy's state: its row, or the tensor that goes by its number."""
    found = {}
    for name, value in state.items():
        last = name.rpartition(".")[2]
        if last == str(task) or (not last.isdecimal() and value.shape[:1] == (n_tasks,)):
            found[name] = (value if last == str(task) else value[task]).clone()
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_task_in_one_of_a_hundred_batches_trains_and_rests_in_the_others(rare, tmp_path, strategy):
    experiment = rare(strategy)
    states, heads, rows = [], [], []

    def snapshot():
        states.append(of_task(experiment.strategy.state_dict(), 1, 5))
        heads.append([value.clone() for value in experiment.model.head("side").state_dict().values()])

    def listen(event):
        if isinstance(event, events.StepFinished):
            snapshot()
        if isinstance(event, events.StepRecorded):
            rows.append(event.rows["side"])
            assert all(torch.tensor(list(event.weights.values())).isfinite())

    snapshot()
    with RunFolder.create(tmp_path / "rare", config="", environment={}) as run:
        fit(experiment, run, listen, StopRequest())
    assert sorted(rows) == [0] * (BATCHES - 1) + [1]
    assert 0 < rows.index(1) < BATCHES - 1
    for step, present in enumerate(rows):
        moved = not all(torch.equal(*pair) for pair in zip(heads[step], heads[step + 1], strict=True))
        assert moved == bool(present)
        if not present:
            for name, value in states[step + 1].items():
                before = states[step][name]
                # Gradients that are kept have their size from the first step on, and are 0 until there is one.
                before = before if before.shape == value.shape else torch.zeros_like(value)
                torch.testing.assert_close(value, before, rtol=0, atol=0, equal_nan=True)
    if strategy in LEARNING:
        assert any(not torch.equal(states[-1][name], value) for name, value in states[0].items())
