"""What an optimizer remembers comes back where it fits the parameters, and never where memory would be overrun."""

import copy

import pytest
import torch
from torch import nn

from mtlkit.engine.optimizer_state import restore_optimizer
from mtlkit.resolve import optimizers


def stepped(kind, seed=0, **options):
    """Return an optimizer that has taken two steps, and its model."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = kind(
        [parameter for parameter in model.parameters() if kind is not torch.optim.Muon or parameter.ndim == 2],
        **options,
    )
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    return optimizer, model


@pytest.mark.parametrize("name", optimizers())
def test_every_optimizer_goes_on_as_it_was(name):
    kind = optimizers()[name]
    before, model = stepped(kind, lr=0.01)
    after, other = stepped(kind, seed=1, lr=0.01)
    other.load_state_dict(model.state_dict())
    restore_optimizer(after, copy.deepcopy(before.state_dict()))
    for optimizer, each in ((before, model), (after, other)):
        optimizer.zero_grad()
        each(torch.ones(4, 3)).sum().backward()
        optimizer.step()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_options_stay_those_of_the_configuration():
    before, _ = stepped(torch.optim.Adam, lr=0.5, betas=(0.1, 0.2), fused=True)
    after, _ = stepped(torch.optim.Adam, lr=0.01)
    options = {key: value for key, value in after.param_groups[0].items() if key != "params"}
    restore_optimizer(after, before.state_dict())
    assert {key: value for key, value in after.param_groups[0].items() if key != "params"} == options


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "value",
    [torch.zeros(0), torch.zeros(1), torch.zeros(3), torch.zeros(2, 3, 1), torch.zeros(3, 2), "word", [1.0], {}],
    ids=lambda value: str(list(value.shape)) if isinstance(value, torch.Tensor) else repr(value),
)
def test_what_is_of_another_shape_is_refused(fused, value):
    optimizer, _ = stepped(torch.optim.Adam, fused=fused)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = value
    with pytest.raises(ValueError, match="the optimizer's 'exp_avg' is "):
        restore_optimizer(optimizer, state)


@pytest.mark.parametrize("value", [torch.tensor(0.0), torch.zeros(1, 1), torch.zeros(1, 3), 0.5, None])
def test_what_would_be_repeated_is_refused_where_the_kernel_is_fused(value):
    optimizer, _ = stepped(torch.optim.Adam, fused=True)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg_sq"] = value
    with pytest.raises(ValueError, match="the optimizer's 'exp_avg_sq' is "):
        restore_optimizer(optimizer, state)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_is_one_number(fused):
    optimizer, _ = stepped(torch.optim.Adam, fused=fused)
    state = optimizer.state_dict()
    state["state"][0]["step"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="the optimizer's 'step' is of shape"):
        restore_optimizer(optimizer, state)


def test_other_parameters_are_refused():
    optimizer, _ = stepped(torch.optim.Adam)
    state = optimizer.state_dict()
    state["state"][7] = state["state"][0]
    with pytest.raises(ValueError, match="remembers parameters that it does not have"):
        restore_optimizer(optimizer, state)
    state["param_groups"][0]["params"] = [0]
    with pytest.raises(ValueError, match="has other parameters"):
        restore_optimizer(optimizer, state)
