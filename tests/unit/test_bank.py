"""HeadBank: alike linear heads computed as one, each still a head of its own."""

import copy

import pytest
import torch
from torch import nn

from mtlkit import FeatureSpec, InputSpec, MultiTaskModel
from mtlkit import heads as kinds
from mtlkit.architectures import HardSharing
from mtlkit.encoders import MLP
from mtlkit.heads import Binary, HeadBank, Linear, Regression

SPEC = FeatureSpec((5,))
MAKERS = {
    "linear": lambda: Linear(SPEC, 3),
    "regression": lambda: Regression(SPEC),
    "pairs": lambda: Regression(SPEC, (2, 2)),
    "binary": lambda: Binary(SPEC),
    "mlp": lambda: kinds.MLP(SPEC, 2, layers=()),
}


@pytest.fixture(name="seeded", autouse=True)
def fixture_seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_outputs_are_those_of_the_heads(make):
    heads = [make() for _ in range(3)]
    before = copy.deepcopy(heads)
    bank, z = HeadBank(heads), torch.randn(4, 5)
    outputs = bank.apart(bank(z))
    for index, (head, old) in enumerate(zip(heads, before, strict=True)):
        torch.testing.assert_close(outputs[:, index], old(z))
        assert torch.equal(head(z), old(z))


def test_features_of_any_shape_are_flattened():
    heads = [Linear(FeatureSpec((2, 3)), 2) for _ in range(3)]
    bank, z = HeadBank(heads), torch.randn(4, 2, 3)
    torch.testing.assert_close(bank.apart(bank(z))[:, 1], heads[1](z))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_state_dict_is_that_of_the_heads(make):
    def model(*, banked):
        torch.manual_seed(1)
        architecture = HardSharing(lambda: MLP(InputSpec((5,)), layers=(5,)), 3)
        heads = {label: make() for label in "abc"}
        return MultiTaskModel(architecture, heads, banks=[HeadBank(list(heads.values()))] if banked else [])

    one, other = model(banked=True), model(banked=False)
    assert list(one.state_dict()) == list(other.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert sum(p.numel() for p in one.parameters()) == sum(p.numel() for p in other.parameters())
    assert len(list(one.parameters())) == 4
    changed = {name: torch.randn_like(value) for name, value in other.state_dict().items()}
    one.load_state_dict(changed)
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(value, changed[name]) for name, value in other.state_dict().items())
    x = torch.randn(4, 5)
    assert all(torch.equal(output, other(x)[label]) for label, output in one(x).items())


@pytest.fixture(name="banked")
def fixture_banked():
    return nn.ModuleDict({"a": Linear(SPEC, 2), "b": Linear(SPEC, 2)})


def test_what_does_not_fit_is_refused_when_it_is_loaded(banked):
    model = nn.ModuleDict({"heads": banked, "bank": HeadBank(list(banked.values()))})
    state = model.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"heads.a.output.weight\""):
        model.load_state_dict({name: value for name, value in state.items() if name != "heads.a.output.weight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"bank.weight\""):
        model.load_state_dict({**state, "bank.weight": torch.zeros(4, 5)})
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"heads.b.output.more\""):
        model.load_state_dict({**state, "heads.b.output.more": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for heads\.b\.output\.bias"):
        model.load_state_dict({**state, "heads.b.output.bias": torch.zeros(3)})
    model.load_state_dict({"heads.a.output.bias": torch.ones(2)}, strict=False)
    assert torch.equal(banked["a"].output.bias, torch.ones(2))
    assert torch.equal(banked["b"].output.bias, state["heads.b.output.bias"])


def test_a_head_goes_where_the_bank_goes(banked):
    bank = HeadBank(list(banked.values()))
    bank.to(torch.float64)
    assert banked["a"](torch.randn(3, 5).double()).dtype is torch.float64
    copied = copy.deepcopy(nn.ModuleList([banked, bank]))
    with torch.no_grad():
        copied[1].weight.zero_()
        copied[1].bias.fill_(2)
    assert torch.equal(copied[0]["b"](torch.randn(3, 5).double()), torch.full((3, 2), 2.0).double())
    assert not torch.equal(banked["b"].output.bias, torch.full((2,), 2.0).double())


@pytest.mark.parametrize(
    "heads",
    [
        [],
        [Linear(SPEC, 2), Linear(SPEC, 3)],
        [Linear(SPEC, 1), Regression(SPEC, (1,))],
        [Linear(SPEC, 2), nn.Linear(5, 2)],
        [kinds.MLP(SPEC, 2), kinds.MLP(SPEC, 2)],
        [nn.Sequential(Linear(SPEC, 2))] * 2,
    ],
    ids=["none", "sizes", "classes", "others", "hidden", "wrapped"],
)
def test_heads_that_are_not_alike_are_refused(heads):
    with pytest.raises(ValueError, match="a bank takes linear heads of one class and size"):
        HeadBank(heads)


def test_a_head_that_is_frozen_or_has_a_hook_is_refused():
    frozen, hooked = Linear(SPEC, 2), Linear(SPEC, 2)
    frozen.output.requires_grad_(requires_grad=False)
    hooked.output.register_forward_hook(lambda module, given, made: made * 2)
    for head in (frozen, hooked):
        with pytest.raises(ValueError, match="a bank takes linear heads"):
            HeadBank([head, head])
