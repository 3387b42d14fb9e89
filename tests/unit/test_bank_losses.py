"""backward() with banks: tasks whose heads are one layer are told apart by its outputs."""

import pytest
import torch
from torch import nn

import mtlkit
from mtlkit.errors import NonFiniteError
from mtlkit.gradients import BankLosses
from mtlkit.strategies.fixed import Fixed
from mtlkit.strategies.mgda import MGDA

B, D, T, WIDTH = 6, 4, 3, 2


@pytest.fixture(name="net")
def fixture_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.ModuleDict(
            {
                "encoder": nn.Sequential(nn.Linear(5, D), nn.Tanh()),
                "bank": nn.Linear(D, T * WIDTH),
                "plain": nn.Linear(D, 2),
                "bent": nn.Sequential(nn.Tanh(), nn.Linear(D, 1)),
            }
        ).double()


def passed(net, *, places=(2, 0), own=("plain",), of=(0, 2)):
    """Run a batch; return the losses in order, those of single heads, and the bank's, of which task 1 is absent."""
    x = torch.linspace(-1, 1, B * 5).reshape(B, 5).double().sin()
    z = net["encoder"](x)
    outputs = net["bank"](z)
    losses = (outputs.reshape(B, T, WIDTH) - 0.3).square().mean((0, 2))[list(of)]
    bank = BankLosses([f"b{i}" for i in of], places, losses, outputs, [i * WIDTH for i in of], WIDTH)
    singles = {name: net[name](z).cos().mean() for name in own}
    every, free = dict(zip(places, losses.unbind(), strict=True)), iter(singles.values())
    ordered = [every[place] if place in every else next(free) for place in range(len(every) + len(singles))]
    return z, ordered, singles, bank


def gradients(net):
    found = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    return found


@pytest.mark.parametrize("over", ["features", "last-shared", "parameters"])
@pytest.mark.parametrize(
    "own", [(), ("plain",), ("bent",), ("plain", "bent")], ids=["alone", "linear", "other", "both"]
)
@pytest.mark.parametrize(
    "scales", [{}, {"scale": 0.5, "loss_scale": 64.0}, {"heads": "plain"}], ids=["", "scaled", "plain"]
)
def test_gradients_are_those_of_losses_given_one_by_one(net, over, own, scales):
    places = (1, 0) if not own else (2, 0)
    n_tasks = 2 + len(own)

    class Measured(MGDA):
        """Over another place."""

    Measured.over = mtlkit.Over(over)
    z, ordered, _, _ = passed(net, places=places, own=own)
    expected = mtlkit.backward(ordered, strategy=Measured(n_tasks), features=z, shared=net["encoder"], **scales)
    theirs = gradients(net)
    z, _, singles, bank = passed(net, places=places, own=own)
    runs = []
    bank.outputs.grad_fn.register_prehook(runs.append)
    found = mtlkit.backward(
        singles, banks=[bank], strategy=Measured(n_tasks), features=z, shared=net["encoder"], **scales
    )
    torch.testing.assert_close(found.losses, expected.losses)
    torch.testing.assert_close(found.gramian, expected.gramian, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-8, atol=1e-10)
    for name, gradient in gradients(net).items():
        if gradient is None or theirs[name] is None:
            assert gradient is theirs[name], name
        else:
            torch.testing.assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-10)
    if "bent" not in own or over == "parameters":
        assert not runs, "the bank was backpropagated, and what comes back follows from its outputs"


def test_a_layer_that_something_else_uses_is_left_to_autograd(net):
    def losses():
        z, ordered, singles, bank = passed(net)
        extra = net["bank"].weight.square().sum()
        return z, [ordered[0], ordered[1] + extra, ordered[2]], {"plain": singles["plain"] + extra}, bank

    for over in mtlkit.Over:
        z, ordered, singles, bank = losses()
        expected = mtlkit.backward(ordered, strategy=Fixed(3), features=z, shared=net["encoder"], measure=over)
        theirs = gradients(net)
        z, ordered, singles, bank = losses()
        found = mtlkit.backward(
            singles, banks=[bank], strategy=Fixed(3), features=z, shared=net["encoder"], measure=over
        )
        torch.testing.assert_close(found.gramian, expected.gramian)
        for name, gradient in gradients(net).items():
            assert (gradient is None) is (theirs[name] is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, theirs[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": (0, 3)}, "places of the tasks in banks are different numbers below 3"),
        ({"places": (0, 0)}, "places of the tasks in banks are different numbers below 3"),
        ({"names": ["b"]}, "one name, place, loss and first output for each of its tasks"),
        ({"starts": [0, 5]}, r"2 for each task from where it starts; received outputs of shape \(6, 6\)"),
        ({"losses": torch.ones(2)}, "depend on nothing that can be trained"),
    ],
)
def test_what_does_not_fit_is_refused(net, change, message):
    z, _, singles, bank = passed(net)
    with pytest.raises(ValueError, match=message):
        mtlkit.backward(singles, banks=[bank._replace(**change)], strategy=Fixed(3), features=z)


def test_a_loss_that_is_not_finite_is_named(net):
    z, _, singles, bank = passed(net)
    broken = bank._replace(losses=bank.losses * torch.tensor([1, torch.nan]).double())
    with pytest.raises(NonFiniteError, match="Non-finite loss of 'b2'"):
        mtlkit.backward(singles, banks=[broken], strategy=Fixed(3), features=z)
