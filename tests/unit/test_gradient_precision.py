"""mtlkit.backward in half precision, beside a plain backward pass of the weighted sum in the same precision."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtlkit import backward
from mtlkit.strategies import MGDA, STCH, GradNorm, GradVac, Needs, Over, Strategy, Uncertainty, Weighting

WEIGHTS = [0.5, 2.0, 1.25]
over_each = pytest.mark.parametrize("over", [None, *Over])
heads_each = pytest.mark.parametrize("heads", ["linear", "deep"])
half_each = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


class Constant(Strategy):
    """Constant weights, and a Gram matrix over a place of choice."""

    def __init__(self, over):
        super().__init__(3)
        self.needs, self.over = Needs.LOSSES if over is None else Needs.GRAMIAN, over

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(torch.tensor(WEIGHTS, dtype=torch.float64))


class Model(nn.Module):
    """An encoder and three heads in float32."""

    def __init__(self, heads="linear"):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
            self.heads = nn.ModuleList(
                nn.Linear(8, 2) if heads == "linear" else nn.Sequential(nn.Tanh(), nn.Linear(8, 2)) for _ in range(3)
            )
            self.rows, self.targets = torch.randn(16, 4), torch.randn(3, 16, 2)

    def forward(self, half):
        with torch.autocast("cpu", half, enabled=half is not None):
            z = self.encoder(self.rows)
            outputs = [head(z) for head in self.heads]
        return z, [F.mse_loss(o.float(), t) for o, t in zip(outputs, self.targets, strict=True)]

    @property
    def gradients(self):
        return torch.cat([parameter.grad.flatten() for parameter in self.parameters()])


def assert_near(found, expected, half):
    """Check that they differ by no more than what some roundings of the precision add up to."""
    assert (found - expected).norm() <= 4 * torch.finfo(half).eps * expected.norm()


@over_each
@heads_each
def test_a_loss_scale_may_be_a_whole_number(over, heads):
    found = []
    for loss_scale in (1024, 1024.0):
        model = Model(heads)
        z, losses = model(None)
        backward(losses, strategy=Constant(over), features=z, shared=model.encoder, loss_scale=loss_scale)
        found.append(model.gradients)
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", [GradNorm, GradVac, STCH])
def test_state_that_was_cast_along_with_a_model_is_written_to(kind):
    """As where a strategy is part of a model that goes to bfloat16."""
    model, strategy = Model(), kind(3).to(torch.bfloat16)
    before = {name: state.clone() for name, state in strategy.state_dict().items()}
    for _ in range(2):
        z, losses = model(None)
        backward(losses, strategy=strategy, features=z, shared=model.encoder)
    changed = [name for name, state in strategy.state_dict().items() if not torch.equal(state, before[name])]
    assert any(strategy.state_dict()[name].dtype is torch.bfloat16 for name in changed)


@over_each
@heads_each
@half_each
def test_autocast_gives_what_a_plain_pass_gives(over, heads, half):
    model, twin = Model(heads), Model(heads)
    z, losses = model(half)
    measured = backward(losses, strategy=Constant(over), features=z, shared=model.encoder)
    _, losses = twin(half)
    sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True)).backward()
    assert model.gradients.dtype is torch.float32
    assert_near(model.gradients, twin.gradients, half)
    assert measured.weights.tolist() == WEIGHTS
    torch.testing.assert_close(measured.losses, torch.stack([loss.detach() for loss in losses]), rtol=0, atol=0)


@pytest.mark.parametrize("over", list(Over))
@heads_each
@half_each
def test_what_is_measured_is_near_to_what_float32_measures(over, heads, half):
    found = []
    for precision in (half, None):
        model = Model(heads)
        z, losses = model(precision)
        measured = backward(losses, strategy=Constant(over), features=z, shared=model.encoder)
        found.append(measured.gramian)
    assert found[0].dtype is torch.float64
    torch.testing.assert_close(*found, rtol=0.1, atol=0.02 * float(found[1].abs().max()))


@over_each
@heads_each
@half_each
def test_a_call_inside_of_autocast_computes_as_one_outside(over, heads, half):
    """The losses are differentiated in the dtypes that they were computed in, and all else in its own."""
    model, twin = Model(heads), Model(heads)
    found = []
    for each, inside in ((model, True), (twin, False)):
        z, losses = each(None)
        with torch.autocast("cpu", half, enabled=inside):
            found.append(backward(losses, strategy=Constant(over), features=z, shared=each.encoder).gramian)
    torch.testing.assert_close(model.gradients, twin.gradients, rtol=1e-6, atol=1e-9)
    if over is not None:
        torch.testing.assert_close(*found, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "strategy",
    [lambda: Uncertainty(3, ["regression"] * 3), lambda: GradNorm(3), lambda: MGDA(3)],
    ids=["uncertainty", "gradnorm", "mgda"],
)
@heads_each
def test_a_grad_scaler_takes_float16_where_float32_goes(strategy, heads):
    """And a step that overflows moves nothing."""
    ends = []
    for half in (torch.float16, torch.float32):
        model, own = Model(heads), strategy()
        optimizer = torch.optim.SGD([{"params": list(model.parameters())}, *own.parameter_groups()], lr=0.05)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, enabled=half is torch.float16)
        steps = skipped = 0
        while steps < 5:
            optimizer.zero_grad()
            z, losses = model(half if half is torch.float16 else None)
            before = [parameter.detach().clone() for parameter in (*model.parameters(), *own.parameters())]
            scale = scaler.get_scale()
            backward(losses, strategy=own, features=z, shared=model.encoder, loss_scale=scaler)
            scaler.step(optimizer)
            scaler.update()
            if half is torch.float16 and scaler.get_scale() < scale:
                skipped += 1
                for one, other in zip(before, (*model.parameters(), *own.parameters()), strict=True):
                    assert torch.equal(one, other)
            else:
                steps += 1
        assert (skipped > 0) == (half is torch.float16)
        ends.append(torch.cat([parameter.detach().flatten() for parameter in (*model.parameters(), *own.parameters())]))
    assert_near(ends[0].double(), ends[1].double(), torch.float16)
