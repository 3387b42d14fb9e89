"""mtlkit.backward through encoders and heads that torch.compile made."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._functorch.config
from torch import nn
from torch.nn import functional as F

from mtlkit import backward
from mtlkit.strategies import MGDA, MGDAUB, GradNorm, Strategy, Uncertainty

MAKE: dict[str, Callable[[], Strategy]] = {
    "losses": lambda: Uncertainty(3, ["regression"] * 3),
    "last-shared": lambda: GradNorm(3),
    "features": lambda: MGDAUB(3),
    "parameters": lambda: MGDA(3),
}
BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
# What torch warns of while it compiles is its own affair.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]


@pytest.fixture(autouse=True)
def afresh():
    """Forget what was compiled, which depends on settings that the tests change."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(nn.Module):
    """An encoder and three heads."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
            self.heads = nn.ModuleList(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)) for _ in range(3))
            self.rows, self.targets = torch.randn(8, 4).double(), torch.randn(3, 8, 2).double()
        self.double()


def run(strategy, *, encoder=lambda module: module, heads=lambda module: module):
    """Return what two steps leave behind: the weights that were applied, and each parameter with its gradient."""
    model = Model()
    encode, decode = encoder(model.encoder), [heads(head) for head in model.heads]
    optimizer = torch.optim.SGD([{"params": list(model.parameters())}, *strategy.parameter_groups()], lr=0.1)
    found = []
    for _ in range(2):
        optimizer.zero_grad()
        z = encode(model.rows)
        losses = [F.mse_loss(head(z), target) for head, target in zip(decode, model.targets, strict=True)]
        found.append(backward(losses, strategy=strategy, features=z, shared=model.encoder).weights)
        optimizer.step()
    return [*found, *(part for p in model.parameters() for part in (p.detach(), p.grad))]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("need", MAKE)
def test_a_compiled_encoder_gets_what_a_plain_one_gets(need, backend):
    expected = run(MAKE[need]())
    # Inductor takes from its cache what an earlier test compiled for one pass.
    with torch._functorch.config.patch(donated_buffer=backend != "inductor"):
        assert_same(run(MAKE[need](), encoder=lambda module: torch.compile(module, backend=backend)), expected)


@pytest.mark.parametrize("need", MAKE)
def test_compiled_heads_get_what_plain_ones_get(need):
    expected = run(MAKE[need]())
    assert_same(run(MAKE[need](), heads=lambda module: torch.compile(module, backend="aot_eager")), expected)


class TestAPassForEachTaskAfterOneThatStoodAlone:
    """Torch compiles a backward pass when it is first run, and as it is then: what it keeps may serve once only."""

    def step(self, need):
        model = Model()
        encode = torch.compile(model.encoder, backend="aot_eager")
        for strategy in (MAKE["losses"](), MAKE[need]()):
            z = encode(model.rows)
            losses = [F.mse_loss(head(z), target) for head, target in zip(model.heads, model.targets, strict=True)]
            backward(losses, strategy=strategy, features=z, shared=model.encoder)

    @pytest.mark.parametrize("need", ["last-shared", "parameters"])
    def test_is_refused_with_what_would_help(self, need):
        with pytest.raises(
            ValueError, match=r"set torch\._functorch\.config\.donated_buffer = False before it is compiled"
        ):
            self.step(need)

    @pytest.mark.parametrize("need", ["last-shared", "parameters"])
    def test_works_with_the_setting(self, need):
        with torch._functorch.config.patch(donated_buffer=False):
            self.step(need)

    def test_is_not_needed_at_the_features(self):
        self.step("features")
