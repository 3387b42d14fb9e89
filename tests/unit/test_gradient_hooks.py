"""Hooks hear from mtlkit.backward what they would hear from a plain backward pass of the weighted sum."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge, register_multi_grad_hook
from torch.nn import functional as F

from mtlkit import backward
from mtlkit.strategies import Needs, Over, Strategy, Weighting

WEIGHTS = [0.5, 2.0, 1.25]
PLACES = [None, *Over]
over_each = pytest.mark.parametrize("over", PLACES)
heads_each = pytest.mark.parametrize("heads", ["linear", "deep", "shared"])
batches_each = pytest.mark.parametrize("batches", ["one", "three"])


class Constant(Strategy):
    """Constant weights, and a Gram matrix over a place of choice."""

    def __init__(self, over):
        super().__init__(3)
        self.needs, self.over = Needs.LOSSES if over is None else Needs.GRAMIAN, over

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(torch.tensor(WEIGHTS, dtype=torch.float64))


class Model(nn.Module):
    """An encoder and three heads; one batch for all tasks, or three."""

    def __init__(self, heads="linear", batches="one"):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU())
            made = {
                "linear": lambda: nn.Linear(5, 2),
                "deep": lambda: nn.Sequential(nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)),
            }
            every = [made[heads]() for _ in range(3)] if heads in made else [nn.Linear(5, 2)] * 3
            self.heads = nn.ModuleList(every)
            self.rows = nn.Parameter(torch.randn(3, 8, 4))  # hooks on the first module want inputs with a gradient
            self.targets = torch.randn(3, 8, 2).double()
        self.batches = batches
        self.double()

    def forward(self, prepare=None):
        """Return the features and the losses; `prepare` is shown the features before the heads are."""
        shared = self.encoder(self.rows[0]) if self.batches == "one" else None
        features = [shared if shared is not None else self.encoder(rows) for rows in self.rows]
        for z in dict.fromkeys(features):
            if prepare is not None:
                prepare(z)
        losses = [F.mse_loss(h(z), t) for h, z, t in zip(self.heads, features, self.targets, strict=True)]
        return features, losses


def plain(features, losses):
    sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True)).backward()


def weighed(over, model):
    return lambda features, losses: backward(losses, strategy=Constant(over), features=features, shared=model.encoder)


def assert_same(one, other):
    for (name, parameter), (_, twin) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(parameter, twin, rtol=1e-12, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}")
        assert (parameter.grad is None) == (twin.grad is None)
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-11, atol=1e-14, msg=lambda m, n=name: n + m)


def compare(over, attach, heads="linear", batches="one", prepare=None):
    """Return the model and its twin after a pass each, with hooks attached to both."""
    model, twin = Model(heads, batches), Model(heads, batches)
    handles = [attach(model), attach(twin)]
    weighed(over, model)(*model(prepare))
    plain(*twin(prepare))
    assert_same(model, twin)
    return handles


def squashed(gradient):
    return gradient.clamp(-1e-3, 1e-3) * 0.5


@over_each
@heads_each
@batches_each
def test_on_parameters(over, heads, batches):
    """They hear of the weighted sum, and of nothing else."""

    def attach(model):
        heard = []
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: heard.append(gradient) or squashed(gradient))
        return heard

    heard, expected = compare(over, attach, heads, batches)
    assert len(heard) == len(expected)


@over_each
@heads_each
@batches_each
def test_after_accumulation(over, heads, batches):
    """Such as an optimizer within the backward pass."""

    def attach(model):
        def step(parameter):
            with torch.no_grad():
                parameter -= 0.1 * parameter.grad
            parameter.grad = None

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(step)

    compare(over, attach, heads, batches)


@over_each
@heads_each
def test_on_accumulators(over, heads):
    """Such as those by which distributed training learns that a gradient is there."""

    def attach(model):
        heard, kept = [], [get_gradient_edge(parameter).node for parameter in model.parameters()]
        for number, node in enumerate(kept):
            node.register_hook(lambda *_, number=number: heard.append(number))
        return heard, kept

    (heard, _), (expected, _) = compare(over, attach, heads)
    assert sorted(heard) == sorted(expected) == list(range(len(heard)))


@over_each
@heads_each
def test_on_several_parameters_together(over, heads):
    def attach(model):
        heard = []
        register_multi_grad_hook(list(model.parameters()), heard.append)
        return heard

    heard, expected = compare(over, attach, heads)
    assert len(heard) == len(expected) == 1
    for one, other in zip(heard[0], expected[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("over", [None, Over.LAST_SHARED, Over.FEATURES])
@heads_each
@batches_each
def test_on_the_features(over, heads, batches):
    compare(over, lambda model: None, heads, batches, prepare=lambda z: z.register_hook(squashed))


@pytest.mark.parametrize("over", [None, Over.LAST_SHARED, Over.FEATURES])
@heads_each
@batches_each
def test_gradients_that_features_retain(over, heads, batches):
    models, kept = [Model(heads, batches), Model(heads, batches)], []
    for model, run in zip(models, (weighed(over, models[0]), plain), strict=True):
        features, losses = model(lambda z: z.retain_grad())
        run(features, losses)
        kept.append([z.grad for z in features])
    for one, other in zip(*kept, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


@over_each
@heads_each
@batches_each
@pytest.mark.parametrize("place", ["encoder.0", "encoder.2", "encoder", "heads.0", "heads.2"])
def test_on_modules(over, heads, batches, place):
    def attach(model):
        module = model.get_submodule(place)
        module.register_full_backward_pre_hook(lambda _, outputs: tuple(2 * g for g in outputs))
        module.register_full_backward_hook(lambda _, inputs, __: tuple(3 * gradient for gradient in inputs))

    compare(over, attach, heads, batches)


@over_each
@batches_each
def test_on_tensors_within(over, batches):
    def attach(model):
        def scale(_module, _inputs, outputs):
            outputs.register_hook(lambda gradient: -0.5 * gradient)

        for module in (model.encoder[0], model.encoder[2], model.heads[1]):
            module.register_forward_hook(scale)

    compare(over, attach, "linear", batches)


@over_each
def test_the_measured_gradients_know_of_a_hook_on_the_features(over):
    """What is compared at the weights is what they would get."""
    model, twin = Model(), Model()
    features, losses = model(lambda z: z.register_hook(lambda gradient: 3 * gradient))
    found = backward(losses, strategy=Constant(over), features=features, shared=model.encoder)
    features, losses = twin()
    expected = backward(losses, strategy=Constant(over), features=features, shared=twin.encoder)
    if over is None:
        assert found.gramian is None
    else:
        factor = 1 if over is Over.FEATURES else 9
        torch.testing.assert_close(found.gramian, factor * expected.gramian, rtol=1e-11, atol=0)
