"""mtlkit.backward against explicit combinations of dense per-task gradients."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtlkit import Architecture, FeatureSpec, InputSpec, MultiTaskModel, backward
from mtlkit.architectures import HardSharing
from mtlkit.encoders import MLP, Encoder
from mtlkit.errors import NonFiniteError
from mtlkit.gradients import Measurement
from mtlkit.heads import Linear
from mtlkit.strategies import Fixed, GradNorm, Needs, Over, Strategy, Uncertainty, Weighting

WEIGHTS = [0.5, 2.0, 1.25]
PLACES = list(Over)
MEASURED = [None, *PLACES]  # None: a strategy that needs the losses alone


class Constant(Strategy):
    """Constant weights, but the Gram matrix over a given place is asked for, and kept."""

    def __init__(self, n_tasks=3, over=None):
        super().__init__(n_tasks)
        self.needs, self.over = Needs.LOSSES if over is None else Needs.GRAMIAN, over
        self.seen = []

    def weights(self, losses, gramian=None, tasks=None):
        self.seen.append((losses, gramian, tasks))
        every = torch.tensor(WEIGHTS[: self.n_tasks], dtype=torch.float64)
        return Weighting(every if tasks is None else every[tasks])


class ByGradient(Strategy):
    """Weights that the Gram matrix decides, and a parameter that they depend on."""

    needs = Needs.GRAMIAN
    over = Over.PARAMETERS

    def __init__(self, n_tasks):
        super().__init__(n_tasks)
        self.power = nn.Parameter(torch.full((n_tasks,), -0.5, dtype=torch.float64))

    def weights(self, losses, gramian=None, tasks=None):
        return Weighting(gramian.diagonal() ** self.power, self.power.square().sum())


@dataclass
class Case:
    """A model, and a way to compute its losses and its features afresh."""

    modules: nn.Module
    encoder: nn.Module
    compute: Callable[[], tuple[list[torch.Tensor], list[torch.Tensor]]]

    @property
    def trained(self):
        return [parameter for parameter in self.modules.parameters() if parameter.requires_grad]

    def jacobian(self, wanted=None):
        """Return each task's gradient at these parameters, in parts; zeros where a loss does not reach one."""
        wanted = self.trained if wanted is None else wanted
        losses, _ = self.compute()
        return [
            [
                torch.zeros_like(parameter) if gradient is None else gradient
                for parameter, gradient in zip(
                    wanted, torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True), strict=True
                )
            ]
            for loss in losses
        ]

    def at_features(self):
        losses, features = self.compute()
        features = list(dict.fromkeys(features))
        return [
            [
                torch.zeros_like(z) if gradient is None else gradient
                for z, gradient in zip(
                    features, torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True), strict=True
                )
            ]
            for loss in losses
        ]

    def combination(self, weights):
        """Return sum_i w_i g_i for every parameter that is trained."""
        return [
            sum(weight * part for weight, part in zip(weights, parts, strict=True))
            for parts in zip(*self.jacobian(), strict=True)
        ]

    def backward(self, strategy, **arguments):
        losses, features = self.compute()
        return backward(losses, strategy=strategy, features=features, shared=self.encoder, **arguments)

    def assert_gradients(self, expected):
        for (name, parameter), gradient in zip(
            ((n, p) for n, p in self.modules.named_parameters() if p.requires_grad), expected, strict=True
        ):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, gradient, rtol=1e-11, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")


def dense_gramian(gradients):
    rows = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in gradients])
    return rows @ rows.T


def modules(n_heads=3, dtype=torch.float64):
    """Return an encoder of three linear layers, heads and three batches of rows; the same values in each dtype."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        heads = nn.ModuleList([nn.Linear(3, 2) for _ in range(n_heads)])
        batches = torch.randn(3, 8, 4)
    return nn.ModuleDict({"encoder": encoder, "heads": heads}).to(dtype), batches.to(dtype)


def loss_of(task, output):
    if task == 0:
        return output.square().mean()
    if task == 1:
        return F.cross_entropy(output, torch.arange(len(output)) % 2)
    return output.abs().mean()


def case(make_features=None, make_losses=None, change=None):
    """Assemble a case: one shared batch and plain heads unless told otherwise."""
    both, batches = modules()
    encoder, heads = both["encoder"], both["heads"]
    if change is not None:
        change(both)

    def compute():
        features = [encoder(batches[0])] * 3 if make_features is None else make_features(encoder, batches)
        if make_losses is not None:
            return make_losses(both, features), features
        return [loss_of(task, heads[task](z)) for task, z in enumerate(features)], features

    return Case(both, encoder, compute)


def separate_batches(encoder, batches):
    return [encoder(batch) for batch in batches]


def mixed_batches(encoder, batches):
    first, second = encoder(batches[0]), encoder(batches[1])
    return [first, second, first]


def in_one_pass(cut):
    """Return how to make features of separate batches from one pass over the rows of all."""

    def features(encoder, batches):
        return cut(encoder(batches.flatten(0, 1)))

    return features


def one_pass_case(make_encoder, cut=lambda z: z.split(8), make_losses=None):
    """Return a case of batches that pass as one through an encoder of another make, to three features."""

    def change(both):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            both["encoder"] = make_encoder().double()

    both = case(change=change).modules
    return case(lambda _, batches: in_one_pass(cut)(both["encoder"], batches), make_losses, both.update)


def two_tasks_of_a_slice(z):
    first, second, _ = z.split(8)
    return [first, second, first]


def overlapping(z):
    return [z[:12], z[8:16], z[10:]]


def shared_hidden_layer(both, features):
    """Return losses of heads that read their features by a layer that two of them share."""
    outputs = [both["heads"][task](features[task]) for task in range(3)]
    outputs[1] = outputs[1] + both["heads"][0](features[1].tanh())
    return [loss_of(task, output) for task, output in enumerate(outputs)]


class Centred(nn.Module):
    """A layer whose rows know of one another, by operations that each look harmless."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, rows):
        hidden = self.one(rows).tanh()
        return self.other(hidden - self.one(rows[:1]).tanh()) * self.other(hidden[2:3])


class Squared(nn.Module):
    """An encoder that is given as many rows as it has hidden units, and mistakes one for the other."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 24), nn.Linear(24, 3)

    def forward(self, rows):
        return self.other(self.one(rows).t().tanh())


class Residual(nn.Module):
    """An encoder with a way past its layers, a gate, and a layer that is not trained."""

    def __init__(self):
        super().__init__()
        self.begin, self.fixed, self.end = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3, bias=False)
        self.fixed.requires_grad_(requires_grad=False)

    def forward(self, rows):
        hidden = self.begin(rows)
        return self.end(F.gelu(hidden) + hidden * self.fixed(hidden).sigmoid())


class Twice(nn.Module):
    """An encoder that takes its rows through one layer two times."""

    def __init__(self):
        super().__init__()
        self.begin, self.end = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, rows):
        return self.end(self.begin(self.begin(rows).tanh()))


class Normalised(nn.Sequential):
    """An encoder with a parameter of no linear layer."""

    def __init__(self):
        super().__init__(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3), nn.ReLU())


def activated():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU())


def checkpointed(encoder, batches):
    return [checkpoint(encoder, batches[0], use_reentrant=False)] * 3


def checkpointed_layers(encoder, batches):
    hidden = checkpoint(encoder[:3], batches[0], use_reentrant=False)
    return [checkpoint(encoder[3:], hidden, use_reentrant=False)] * 3


def share_a_head_parameter(both):
    both["heads"][1].weight = both["heads"][0].weight


def freeze_some(both):
    both["encoder"][0].requires_grad_(requires_grad=False)
    both["encoder"][2].bias.requires_grad_(requires_grad=False)
    both["heads"][0].requires_grad_(requires_grad=False)


def add_unused(both):
    both["encoder"].register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    both["heads"].append(nn.Linear(3, 2).double())


def penalise(which):
    """Return losses of which two have a weight penalty that reaches parameters past the features."""

    def losses(both, features):
        plain = [loss_of(task, both["heads"][task](z)) for task, z in enumerate(features)]
        penalty = sum(parameter.square().sum() for parameter in both[which].parameters())
        return [plain[0] + 0.1 * penalty, plain[1], plain[2] + 0.3 * penalty]

    return losses


def one_head_for_all(both, features):
    return [loss_of(task, both["heads"][0](z)) for task, z in enumerate(features)]


def features_twice(both, features):
    """Return losses of which the first uses the features of two batches."""
    outputs = [both["heads"][task](z) for task, z in enumerate(features)]
    contrast = (outputs[0] - both["heads"][0](features[1])).square().mean()
    return [contrast, loss_of(1, outputs[1]), loss_of(2, outputs[2])]


def with_heads(make, widths=(2, 2, 2)):
    """Return how to give a case other heads, made for each number of outputs."""

    def change(both):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            both["heads"] = nn.ModuleList([make(width) for width in widths]).double()

    return change


def of_heads(both, features):
    return [loss_of(task, both["heads"][task](z)) for task, z in enumerate(features)]


def heads_case(make, widths=(2, 2, 2), make_features=None):
    return case(make_features, of_heads, with_heads(make, widths))


class Scaled(nn.Module):
    """A layer whose operation looks linear, and is not quite that of a linear layer."""

    def __init__(self, alpha=1.0, beta=1.0, bias=(2,)):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(*bias))
        self.alpha, self.beta = alpha, beta

    def forward(self, z):
        return torch.addmm(self.bias, z, self.weight.t(), alpha=self.alpha, beta=self.beta)


class Tied(nn.Module):
    """A layer that reads its weight, transposed once, for two products."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))

    def forward(self, z):
        transposed = self.weight.t()
        return z @ transposed + 0.1 * (torch.ones(len(z), 3, dtype=z.dtype) @ transposed)


class Parallel(nn.Module):
    """A head of two layers side by side, with outputs of different widths."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 1)

    def forward(self, z):
        return self.one(z) * self.other(z).sigmoid()


def mixed_heads(both):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        heads = [nn.Linear(3, 2), nn.Sequential(nn.Tanh(), nn.Linear(3, 2)), nn.Linear(3, 2, bias=False)]
        both["heads"] = nn.ModuleList(heads).double()


def freeze_biases(both):
    for head in both["heads"]:
        head.bias.requires_grad_(requires_grad=False)


def rows_of_tokens(encoder, batches):
    return [encoder(batches[:2])] * 3  # [2, B, D]: linear layers see rows of rows


def token_losses(both, features):
    return [loss_of(task, both["heads"][task](z).flatten(0, 1)) for task, z in enumerate(features)]


def stacked(losses):
    """Return how to compute these losses as one tensor."""

    def made(both, features):
        return torch.stack(losses(both, features))

    return made


CASES = {
    "one batch": case,
    "heads of different widths": lambda: heads_case(lambda n: nn.Linear(3, n), (2, 4, 3)),
    "heads of one output": lambda: case(
        make_losses=lambda both, features: [(both["heads"][t](z) - t).square().mean() for t, z in enumerate(features)],
        change=with_heads(lambda n: nn.Linear(3, n), (1, 1, 1)),
    ),
    "heads of many outputs": lambda: heads_case(lambda n: nn.Linear(3, n), (20, 20, 20)),
    "heads without a bias": lambda: heads_case(lambda n: nn.Linear(3, n, bias=False)),
    "heads with a frozen bias": lambda: case(change=freeze_biases),
    "deep heads": lambda: heads_case(lambda n: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, n))),
    "heads that begin with a nonlinearity": lambda: heads_case(lambda n: nn.Sequential(nn.Tanh(), nn.Linear(3, n))),
    "heads of different kinds": lambda: case(make_losses=of_heads, change=mixed_heads),
    "heads of different kinds, mixed batches": lambda: case(mixed_batches, of_heads, mixed_heads),
    "heads of two layers side by side": lambda: heads_case(lambda n: Parallel()),
    "a scaled product": lambda: heads_case(lambda n: Scaled(alpha=0.5)),
    "a scaled bias": lambda: heads_case(lambda n: Scaled(beta=0.5)),
    "a bias for each row": lambda: heads_case(lambda n: Scaled(bias=(8, 2))),
    "a weight read twice": lambda: heads_case(lambda n: Tied()),
    "rows of tokens": lambda: case(rows_of_tokens, token_losses),
    "stacked losses": lambda: case(make_losses=stacked(of_heads)),
    "stacked losses, separate batches": lambda: case(separate_batches, stacked(of_heads)),
    "stacked losses that share a head": lambda: case(separate_batches, stacked(one_head_for_all)),
    "separate batches": lambda: case(separate_batches),
    "mixed batches": lambda: case(mixed_batches),
    "a parameter in two heads": lambda: case(change=share_a_head_parameter),
    "one head for all": lambda: case(separate_batches, one_head_for_all),
    "a loss over two batches": lambda: case(separate_batches, features_twice),
    "a penalty on the heads": lambda: case(make_losses=penalise("heads")),
    "a penalty on the encoder": lambda: case(make_losses=penalise("encoder")),
    "a penalty on the encoder, separate batches": lambda: case(separate_batches, penalise("encoder")),
    "frozen parameters": lambda: case(change=freeze_some),
    "unused parameters": lambda: case(change=add_unused),
    "one pass, split": lambda: case(in_one_pass(lambda z: z.split(8))),
    "one pass, copied": lambda: case(in_one_pass(lambda z: torch.split_with_sizes_copy(z, [8, 8, 8]))),
    "one pass, sliced": lambda: case(in_one_pass(lambda z: [z[:8], z[8:16], z[-8:]])),
    "one pass, narrowed": lambda: case(in_one_pass(lambda z: [z.narrow(0, at, 8) for at in (16, 0, 8)])),
    "one pass, unequal batches": lambda: case(in_one_pass(lambda z: z.split([3, 14, 7]))),
    "one pass, rows of no task": lambda: case(in_one_pass(lambda z: [z[1:5], z[5:6], z[20:24]])),
    "one pass, some rows twice": lambda: case(in_one_pass(overlapping)),
    "one pass, every second row": lambda: case(in_one_pass(lambda z: [z[::2], z[1:12:2], z[13::2]])),
    "one pass, rows by their numbers": lambda: case(
        in_one_pass(lambda z: [z[torch.arange(t, 24, 3)] for t in range(3)])
    ),
    "one pass, columns": lambda: case(
        in_one_pass(lambda z: [z[:, :2], z[:, 1:], z[:, ::2]]),
        of_heads,
        with_heads(lambda n: nn.Linear(2, n)),
    ),
    "one pass, then each its own way": lambda: case(in_one_pass(lambda z: [part.tanh() for part in z.split(8)])),
    "one pass, two tasks of a batch": lambda: case(in_one_pass(two_tasks_of_a_slice)),
    "one pass, deep heads": lambda: heads_case(
        lambda n: nn.Sequential(nn.Tanh(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, n)),
        make_features=in_one_pass(lambda z: z.split(8)),
    ),
    "one pass, stacked losses": lambda: case(in_one_pass(lambda z: z.split(8)), stacked(of_heads)),
    "one pass, one head for all": lambda: case(in_one_pass(lambda z: z.split(8)), one_head_for_all),
    "one pass, a layer in two heads": lambda: case(in_one_pass(lambda z: z.split(8)), shared_hidden_layer),
    "one pass, a loss over two batches": lambda: case(in_one_pass(lambda z: z.split(8)), features_twice),
    "one pass, a penalty on the encoder": lambda: case(in_one_pass(lambda z: z.split(8)), penalise("encoder")),
    "one pass, a penalty on the heads": lambda: case(in_one_pass(lambda z: z.split(8)), penalise("heads")),
    "one pass, frozen parameters": lambda: case(in_one_pass(lambda z: z.split(8)), change=freeze_some),
    "one pass, unused parameters": lambda: case(in_one_pass(lambda z: z.split(8)), of_heads, add_unused),
    "one pass, ReLU": lambda: one_pass_case(activated),
    "one pass, ReLU, sliced": lambda: one_pass_case(activated, lambda z: [z[:8], z[8:16], z[16:]]),
    "one pass, ReLU, two tasks of a batch": lambda: one_pass_case(activated, two_tasks_of_a_slice),
    "one pass, a residual encoder": lambda: one_pass_case(Residual),
    "one pass, a layer used twice": lambda: one_pass_case(Twice),
    "one pass, a norm": lambda: one_pass_case(Normalised),
    "one pass, rows that know of one another": lambda: one_pass_case(Centred),
    "one pass, rows for columns": lambda: one_pass_case(Squared),
    "one pass, checkpointed": lambda: case(
        lambda encoder, batches: checkpoint(encoder, batches.flatten(0, 1), use_reentrant=False).split(8)
    ),
    "a checkpointed encoder": lambda: case(checkpointed),
    "checkpointed layers": lambda: case(checkpointed_layers),
}


@pytest.fixture(params=CASES)
def any_case(request):
    return CASES[request.param]()


@pytest.mark.parametrize("over", MEASURED)
def test_every_gradient_is_the_weighted_combination(any_case, over):
    expected = any_case.combination(WEIGHTS)
    measured = any_case.backward(Constant(over=over))
    any_case.assert_gradients(expected)
    assert measured.weights.tolist() == WEIGHTS
    assert measured.losses.tolist() == [loss.item() for loss in any_case.compute()[0]]


@pytest.mark.parametrize("over", PLACES)
def test_the_gramian_is_that_of_dense_gradients(any_case, over):
    if over is Over.FEATURES:
        expected = dense_gramian(any_case.at_features())
    else:
        parameters = any_case.encoder.parameters() if over is Over.PARAMETERS else [any_case.encoder[-1].weight]
        expected = dense_gramian(any_case.jacobian([p for p in parameters if p.requires_grad]))
    strategy = Constant(over=over)
    measured = any_case.backward(strategy)

    torch.testing.assert_close(measured.gramian, expected, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(measured.gradient_norms, expected.diagonal().sqrt(), rtol=1e-11, atol=0)
    assert strategy.seen[0][1] is measured.gramian


@pytest.mark.parametrize("over", PLACES)
@pytest.mark.parametrize("widths", [(1, 1, 1), (2, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU, nn.Tanh])
def test_gradients_at_wide_features(widths, over, activation):
    """With many features, what their inner products are is worked out without writing the gradients down."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        both = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 32), activation())})
        both["heads"] = nn.ModuleList([nn.Linear(32, width) for width in widths])
        rows, targets = torch.randn(16, 4).double(), [torch.randn(16, width).double() for width in widths]
    both.double()

    def compute():
        z = both["encoder"](rows)
        return [F.mse_loss(head(z), target) for head, target in zip(both["heads"], targets, strict=True)], [z]

    model = Case(both, both["encoder"], compute)
    expected = model.combination(WEIGHTS)
    if over is Over.FEATURES:
        gramian = dense_gramian(model.at_features())
    else:
        wanted = both["encoder"].parameters() if over is Over.PARAMETERS else [both["encoder"][0].weight]
        gramian = dense_gramian(model.jacobian(list(wanted)))
    measured = model.backward(Constant(over=over))
    model.assert_gradients(expected)
    torch.testing.assert_close(measured.gramian, gramian, rtol=1e-11, atol=1e-15)


def test_a_weight_that_was_changed_after_the_forward_pass_is_refused():
    model = case()
    losses, features = model.compute()
    with torch.no_grad():
        model.modules["heads"][1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        backward(losses, strategy=Constant(over=Over.FEATURES), features=features)


@pytest.mark.parametrize("over", MEASURED)
def test_a_parameter_that_no_loss_reaches_gets_no_gradient(over):
    unused = case(change=add_unused)
    unused.backward(Constant(over=over))
    assert unused.encoder.idle.grad is None
    assert unused.modules["heads"][3].weight.grad is None


@pytest.mark.parametrize("over", MEASURED)
def test_a_frozen_parameter_gets_no_gradient(over):
    frozen = case(change=freeze_some)
    frozen.backward(Constant(over=over))
    assert all(p.grad is None for p in frozen.modules.parameters() if not p.requires_grad)


@pytest.mark.parametrize("over", MEASURED)
def test_passes_accumulate(over):
    accumulated = case(separate_batches)
    expected = accumulated.combination(WEIGHTS)
    accumulated.backward(Constant(over=over), scale=0.25)
    accumulated.backward(Constant(over=over), scale=0.75)
    accumulated.assert_gradients(expected)
    measured = accumulated.backward(Constant(over=over), scale=2.0)
    accumulated.assert_gradients([3 * gradient for gradient in expected])
    assert measured.weights.tolist() == WEIGHTS  # the scale is no part of them


@pytest.mark.parametrize("over", MEASURED)
def test_what_is_clipped_is_the_combination(over):
    clipped = case(mixed_batches)
    expected = clipped.combination(WEIGHTS)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    clipped.backward(Constant(over=over))
    torch.nn.utils.clip_grad_norm_(clipped.trained, 0.25 * norm)
    found = torch.cat([parameter.grad.flatten() for parameter in clipped.trained])
    torch.testing.assert_close(
        found, 0.25 * torch.cat([gradient.flatten() for gradient in expected]), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("over", MEASURED)
def test_a_preference_is_a_factor_on_each_weight(over):
    preferred = case()
    expected = preferred.combination([0.5 * 3, 2.0 * 0.1, 1.25 * 1])
    strategy = Constant(over=over)
    measured = preferred.backward(strategy, preference=torch.tensor([3.0, 0.1, 1.0], dtype=torch.float64))
    preferred.assert_gradients(expected)
    torch.testing.assert_close(
        measured.weights, torch.tensor([1.5, 0.2, 1.25], dtype=torch.float64), rtol=1e-15, atol=0
    )
    assert strategy.seen[0][0].tolist() == measured.losses.tolist()  # the strategy is not shown it


@pytest.mark.parametrize("over", MEASURED)
def test_tasks_that_are_absent_take_no_part(over):
    full = case()
    expected = full.combination([WEIGHTS[0], 0.0, WEIGHTS[2]])
    losses, features = full.compute()
    tasks = torch.tensor([2, 0])
    strategy = Constant(over=over)
    measured = backward([losses[2], losses[0]], strategy=strategy, features=features, shared=full.encoder, tasks=tasks)
    full.assert_gradients(expected)
    assert measured.weights.tolist() == [WEIGHTS[2], WEIGHTS[0]]
    assert strategy.seen[0][2] is tasks
    assert full.modules["heads"][1].weight.grad is None


def test_the_parameters_of_a_strategy_learn_from_the_same_call():
    model = case()
    strategy = ByGradient(3)
    losses, _ = model.compute()
    norms = dense_gramian(model.jacobian(list(model.encoder.parameters()))).diagonal()
    power = strategy.power.detach().clone().requires_grad_()
    own = (norms**power * torch.stack(losses).detach()).sum() + power.square().sum()
    (expected,) = torch.autograd.grad(0.5 * own, power)
    combination = [0.5 * gradient for gradient in model.combination((norms**-0.5).tolist())]

    model.backward(strategy, scale=0.5)
    torch.testing.assert_close(strategy.power.grad, expected, rtol=1e-10, atol=1e-13)
    model.assert_gradients(combination)


@pytest.mark.parametrize("strategy", [Uncertainty(3, ["regression", "classification", "laplace"]), GradNorm(3)])
def test_strategies_from_the_shelf_combine_too(strategy):
    model = case(mixed_batches)
    weights = [0.5, 1.0, 1.0] if isinstance(strategy, Uncertainty) else [1.0, 1.0, 1.0]
    expected = model.combination(weights)
    model.backward(strategy)
    model.assert_gradients(expected)


@pytest.mark.parametrize("over", MEASURED)
@pytest.mark.parametrize(
    "form",
    [
        lambda losses: dict(zip(("a", "b", "c"), losses, strict=True)),
        tuple,
        list,
        torch.stack,
    ],
    ids=["dict", "tuple", "list", "tensor"],
)
def test_losses_come_in_any_form(form, over):
    model = case(mixed_batches)
    expected = model.combination(WEIGHTS)
    losses, features = model.compute()
    backward(form(losses), strategy=Constant(over=over), features=features, shared=model.encoder)
    model.assert_gradients(expected)


def test_a_strategy_that_needs_nothing_is_given_nothing():
    model = case()
    losses, _ = model.compute()
    measured = backward(losses, strategy=Fixed(3, alpha=WEIGHTS))
    assert measured.gramian is None
    assert measured.gradient_norms is None
    model.assert_gradients(case().combination(WEIGHTS))


# What the encoder may be given as.


def mlp_architecture():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return HardSharing(lambda: MLP(InputSpec((4,)), layers=(6, 5), activation="tanh"), 2).double()


@pytest.mark.parametrize("over", [Over.LAST_SHARED, Over.PARAMETERS])
def test_an_architecture_an_encoder_and_parameters_say_the_same(over):
    architecture = mlp_architecture()
    encoder = architecture.encoder
    last = encoder.layers[1][0].weight
    rows = torch.linspace(-1, 1, 20).double().reshape(5, 4)
    as_parameters = [last] if over is Over.LAST_SHARED else list(encoder.parameters())
    found = []
    for shared in (architecture, encoder, as_parameters, iter(as_parameters)):
        z = architecture(rows, [0, 1])[0]
        losses = [z.square().mean(), z.sin().mean()]
        found.append(backward(losses, strategy=Constant(2, over), features=z, shared=shared).gramian)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-14, atol=0)


class Average(Architecture):
    """For each task a weighted mean of two encoders, whose last layers stand side by side."""

    def __init__(self, make_encoder, n_tasks):
        super().__init__()
        self.encoders = nn.ModuleList([make_encoder(), make_encoder()])
        self.parts = nn.ParameterList(torch.tensor([0.3 + task, 0.8 - task]) for task in range(n_tasks))
        self.features = self.encoders[0].features

    def forward(self, inputs, tasks):
        first, second = (encoder(inputs) for encoder in self.encoders)
        return [self.parts[task][0] * first + self.parts[task][1] * second for task in tasks]

    def shared_parameters(self):
        return list(self.encoders.parameters())

    def last_shared_layer(self):
        return [encoder.last_layer() for encoder in self.encoders]


def test_gradients_are_compared_at_all_last_shared_layers_together():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shared = Average(lambda: MLP(InputSpec((4,)), layers=(6, 5), activation="tanh"), 2).double()
    rows = torch.linspace(-1, 1, 20).double().reshape(5, 4)

    def compute():
        features = shared(rows, [0, 1])
        return [features[0].square().mean(), features[1].sin().mean()], features

    losses, features = compute()
    weights = [encoder.last_layer().weight for encoder in shared.encoders]
    expected = dense_gramian([torch.autograd.grad(loss, weights, retain_graph=True) for loss in losses])
    losses, features = compute()
    measured = backward(losses, strategy=Constant(2, Over.LAST_SHARED), features=features, shared=shared)
    torch.testing.assert_close(measured.gramian, expected, rtol=1e-12, atol=0)
    losses, _ = compute()
    combined = sum(weight * loss for weight, loss in zip(WEIGHTS, losses, strict=False))
    for parameter, gradient in zip(
        shared.parameters(), torch.autograd.grad(combined, list(shared.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("over", PLACES)
def test_a_whole_model_says_what_its_tasks_share(over):
    architecture = mlp_architecture()
    model = MultiTaskModel(architecture, {name: Linear(architecture.features, 2).double() for name in "ab"})
    rows = torch.linspace(-1, 1, 20).double().reshape(5, 4)
    found = []
    for shared in (model, architecture):
        features = model.encode(rows)
        losses = {name: output.square().mean() for name, output in model.decode(features).items()}
        model.zero_grad()
        measured = backward(losses, strategy=Constant(2, over), features=features, shared=shared)
        found.append([measured.gramian, *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


@pytest.mark.parametrize("over", PLACES)
@pytest.mark.parametrize("form", ["for all", "for each task"])
def test_an_encoder_may_give_several_features_by_name(form, over):
    both, batches = modules()
    encoder, heads = both["encoder"], both["heads"]

    def compute():
        hidden = encoder[:3](batches[0])
        late = encoder[3:](hidden)
        named = {"early": hidden.tanh(), "late": late, "mask": torch.ones(8, dtype=torch.bool)}
        losses = [loss_of(task, heads[task](late)) for task in range(3)]
        losses[1] = losses[1] + named["early"].square().mean()
        return losses, named if form == "for all" else [named] * 3

    model = Case(both, encoder, compute)
    expected = model.combination(WEIGHTS)
    losses, named = compute()
    named = named if form == "for all" else named[0]
    at = [torch.autograd.grad(e, [named["early"], named["late"]], retain_graph=True, allow_unused=True) for e in losses]
    rows = [[torch.zeros(8, 5).double() if early is None else early, late] for early, late in at]
    measured = model.backward(Constant(over=over))
    model.assert_gradients(expected)
    if over is Over.FEATURES:
        torch.testing.assert_close(measured.gramian, dense_gramian(rows), rtol=1e-11, atol=1e-15)


def test_gradients_may_be_compared_at_a_layer_of_choice():
    model = case()
    expected = dense_gramian(model.jacobian([model.encoder[2].weight]))
    losses, features = model.compute()
    measured = backward(losses, strategy=Constant(over=Over.LAST_SHARED), features=features, shared=model.encoder[2])
    torch.testing.assert_close(measured.gramian, expected, rtol=1e-11, atol=0)


def test_an_encoder_may_say_which_layer_is_its_last():
    class Reversed(Encoder):
        """Registers its layers in the opposite order."""

        def __init__(self):
            super().__init__()
            self.second, self.first = nn.Linear(3, 3), nn.Linear(4, 3)
            self.features = FeatureSpec((3,))

        def forward(self, inputs):
            return self.second(self.first(inputs).tanh())

        def last_layer(self):
            return self.second

    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Reversed().double()
    z = encoder(torch.linspace(-1, 1, 8).double().reshape(2, 4))
    losses = [z.square().sum(), z.exp().sum()]
    expected = dense_gramian([[torch.autograd.grad(e, encoder.second.weight, retain_graph=True)[0]] for e in losses])
    measured = backward(losses, strategy=Constant(2, Over.LAST_SHARED), features=z, shared=encoder)
    torch.testing.assert_close(measured.gramian, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("over", PLACES)
def test_a_skip_connection_past_the_features_counts(over):
    both, batches = modules(n_heads=2)
    encoder, heads = both["encoder"], both["heads"]

    def compute():
        hidden = encoder[:4](batches[0])
        z = encoder[4](hidden)
        return [loss_of(0, heads[0](z)) + hidden.square().mean(), loss_of(1, heads[1](z))], [z]

    model = Case(both, encoder, compute)
    expected = model.combination(WEIGHTS[:2])
    model.backward(Constant(2, over))
    model.assert_gradients(expected)


@pytest.mark.parametrize("over", PLACES)
def test_features_of_different_depths_count_once(over):
    both, batches = modules(n_heads=0)
    encoder = both["encoder"]

    def compute():
        early = encoder[:3](batches[0])
        late = encoder[3:](early)
        return [early.square().mean(), late.square().mean(), late.abs().mean()], [early, late, late]

    model = Case(both, encoder[:3], compute)
    expected = model.combination(WEIGHTS)
    wanted = [encoder[2].weight] if over is Over.LAST_SHARED else list(encoder[:3].parameters())
    gramian = dense_gramian(model.jacobian(wanted))
    measured = model.backward(Constant(over=over))
    model.assert_gradients(expected)
    if over is not Over.FEATURES:
        torch.testing.assert_close(measured.gramian, gramian, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("over", PLACES)
def test_a_second_output_of_the_same_operation_counts(over):
    both, batches = modules(n_heads=0)
    encoder = both["encoder"]

    def compute():
        z, aside = encoder(batches[0]).split((2, 1), 1)  # only the first part is passed as the features
        return [z.square().mean() + aside.square().mean(), z.abs().mean()], [z]

    model = Case(both, encoder, compute)
    expected = model.combination(WEIGHTS[:2])
    model.backward(Constant(2, over))
    model.assert_gradients(expected)


# Precision.


@pytest.mark.parametrize("over", MEASURED)
def test_bfloat16_autocast(over):
    both, batches = modules(dtype=torch.float32)

    def compute():
        with torch.autocast("cpu", torch.bfloat16):
            z = both["encoder"](batches[0])
            assert z.dtype is torch.bfloat16
            return [loss_of(task, both["heads"][task](z).float()) for task in range(3)], [z]

    model = Case(both, both["encoder"], compute)
    exact = case()
    expected = exact.combination(WEIGHTS)
    measured = model.backward(Constant(over=over))

    for parameter, gradient in zip(model.trained, expected, strict=True):
        assert parameter.grad.dtype is torch.float32
        assert (parameter.grad.double() - gradient).norm() < 0.05 * gradient.norm() + 1e-3
    if over is not None:
        assert measured.gramian.dtype is torch.float64
        assert measured.gradient_norms.isfinite().all()
    if over in {Over.LAST_SHARED, Over.PARAMETERS}:
        wanted = [exact.encoder[-1].weight] if over is Over.LAST_SHARED else list(exact.encoder.parameters())
        norms = dense_gramian(exact.jacobian(wanted)).diagonal().sqrt()
        torch.testing.assert_close(measured.gradient_norms, norms, rtol=0.05, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("over", PLACES)
def test_float32_gradients_are_measured_at_every_scale(over, scale):
    both, batches = modules(dtype=torch.float32)
    z = both["encoder"](batches[0])
    losses = [loss_of(task, both["heads"][task](z)) * factor for task, factor in enumerate((scale, 1.0, 1.0))]
    measured = backward(losses, strategy=Constant(over=over), features=z, shared=both["encoder"])

    exact = case()
    if over is Over.FEATURES:
        expected = dense_gramian(exact.at_features())
    else:
        wanted = [exact.encoder[-1].weight] if over is Over.LAST_SHARED else list(exact.encoder.parameters())
        expected = dense_gramian(exact.jacobian(wanted))
    factors = torch.tensor([scale, 1.0, 1.0]).double()
    torch.testing.assert_close(measured.gramian, expected * factors * factors[:, None], rtol=1e-3, atol=0)


@pytest.mark.parametrize("over", PLACES)
def test_a_zero_gradient_is_measured_as_zero(over):
    model = case()
    losses, features = model.compute()
    measured = backward(
        [losses[0] * 0, losses[1], losses[2]], strategy=Constant(over=over), features=features, shared=model.encoder
    )
    assert measured.gramian[0].tolist() == [0.0, 0.0, 0.0]
    assert measured.gradient_norms[1] > 0


@pytest.mark.parametrize("over", PLACES)
@pytest.mark.parametrize("n_tasks", range(2, 9))
def test_equal_float32_gradients_have_equal_norms(over, n_tasks):
    both, batches = modules(dtype=torch.float32)
    z = both["encoder"](batches[0])
    losses = [loss_of(0, both["heads"][0](z)) for _ in range(n_tasks)]

    class Plain(Constant):
        def weights(self, losses, gramian=None, tasks=None):
            return Weighting(torch.ones(n_tasks, dtype=torch.float64))

    norms = backward(losses, strategy=Plain(n_tasks, over), features=z, shared=both["encoder"]).gradient_norms
    assert norms.tolist() == [norms[0].item()] * n_tasks


# What a backward pass costs.


class Watch(torch.autograd.Function):
    """The identity, which notes each backward pass through it, and whether that one could be differentiated again."""

    @staticmethod
    def forward(ctx, inputs, passes):
        ctx.passes = passes
        return inputs.view_as(inputs)

    @staticmethod
    def backward(ctx, gradient):
        ctx.passes.append(torch.is_grad_enabled())
        return gradient, None


def watched(n_batches):
    """Return a case whose encoder notes the passes through its first layer and through its last."""
    both, batches = modules()
    encoder, heads = both["encoder"], both["heads"]
    first, last = [], []

    def encode(rows):
        return Watch.apply(encoder[1:](Watch.apply(encoder[0](rows), first)), last)

    def compute():
        encoded = [encode(batch) for batch in batches[:n_batches]]
        features = [encoded[task % n_batches] for task in range(3)]
        return [loss_of(task, heads[task](z)) for task, z in enumerate(features)], features

    return Case(both, encoder, compute), first, last


@pytest.mark.parametrize("over", [None, Over.LAST_SHARED, Over.FEATURES])
def test_the_encoder_is_backpropagated_once(over):
    model, first, _ = watched(1)
    model.backward(Constant(over=over))
    assert len(first) == 1


@pytest.mark.parametrize("over", [None, Over.LAST_SHARED, Over.FEATURES])
def test_the_encoder_is_backpropagated_once_for_each_batch(over):
    model, first, _ = watched(3)
    model.backward(Constant(over=over))
    assert len(first) == 3


@pytest.mark.parametrize("n_batches", [1, 3])
def test_full_gradients_cost_one_pass_for_each_task(n_batches):
    model, first, _ = watched(n_batches)
    model.backward(Constant(over=Over.PARAMETERS))
    assert len(first) == 3  # where each task has a batch of its own, none more than plain training


@pytest.mark.parametrize("strategy", [GradNorm(3), *(Constant(over=over) for over in MEASURED)])
def test_no_second_derivative_is_taken(strategy):
    model, first, last = watched(1)
    model.backward(strategy)
    assert first
    assert last
    assert not any(first + last)


def test_each_head_is_backpropagated_once():
    both, batches = modules()
    passes = [[], [], []]
    z = both["encoder"](batches[0])
    losses = [loss_of(task, Watch.apply(both["heads"][task](z), passes[task])) for task in range(3)]
    backward(losses, strategy=GradNorm(3), features=z, shared=both["encoder"])
    assert [len(each) for each in passes] == [1, 1, 1]


@pytest.mark.parametrize("over", [Over.PARAMETERS, Over.FEATURES])
def test_the_heads_of_stacked_losses_are_backpropagated_once(over):
    """From the stack itself, the pass of each loss would go through the heads of all."""
    both, batches = modules()
    passes = [[], [], []]
    z = both["encoder"](batches[0])
    losses = torch.stack([loss_of(task, Watch.apply(both["heads"][task](z), passes[task])) for task in range(3)])
    backward(losses, strategy=Constant(over=over), features=z, shared=both["encoder"])
    assert [len(each) for each in passes] == [1, 1, 1]


# What is refused, and that nothing has happened by then.


@dataclass
class Refusal:
    """A model with gradients from an earlier step, and a strategy with state."""

    model: Case
    strategy: Strategy

    def snapshot(self):
        return copy.deepcopy(
            (
                [parameter.grad for parameter in self.model.modules.parameters()],
                [parameter.detach() for parameter in self.model.modules.parameters()],
                list(self.strategy.state_dict().values()),
            )
        )

    def of(self, error, pattern, losses, **arguments):
        before = self.snapshot()
        with pytest.raises(error, match=pattern):
            backward(losses, strategy=self.strategy, **arguments)
        for group, earlier in zip(self.snapshot(), before, strict=True):
            for one, other in zip(group, earlier, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.fixture
def refusal():
    model, strategy = case(), GradNorm(3)
    model.backward(strategy)
    return Refusal(model, strategy)


def test_a_loss_that_is_no_scalar_is_refused(refusal):
    losses, z = refusal.model.compute()
    losses[1] = losses[1].expand(2)
    refusal.of(ValueError, r"loss of task 1 must be a scalar; received shape \(2,\)", losses, features=z)
    named = dict(zip("abc", losses, strict=True))
    refusal.of(ValueError, r"loss of 'b' must be a scalar", named, features=z)


@pytest.mark.parametrize("shape", [(), (3, 1)])
def test_a_tensor_of_losses_of_another_shape_is_refused(refusal, shape):
    losses = torch.ones(shape, requires_grad=True)
    refusal.of(ValueError, rf"need shape \[K\]; received {shape}".replace("(", r"\(").replace(")", r"\)"), losses)


def test_another_number_of_losses_is_refused(refusal):
    losses, z = refusal.model.compute()
    refusal.of(ValueError, "received 2 losses for 3 tasks", losses[:2], features=z)
    refusal.of(ValueError, "received 3 losses for 2 tasks", losses, features=z, tasks=torch.tensor([0, 1]))
    refusal.of(ValueError, "received 0 losses for 3 tasks", [])


@pytest.mark.parametrize("length", [1, 2, 4])
def test_another_number_of_preferences_is_refused(refusal, length):
    losses, z = refusal.model.compute()
    arguments = {"features": z, "shared": refusal.model.encoder, "preference": torch.ones(length)}
    refusal.of(ValueError, "preference", losses, **arguments)


def test_a_loss_that_trains_nothing_is_refused(refusal):
    losses, z = refusal.model.compute()
    losses[2] = losses[2].detach()
    refusal.of(ValueError, "loss of task 2 depends on nothing that can be trained", losses, features=z)


def test_missing_features_are_refused(refusal):
    losses, _ = refusal.model.compute()
    refusal.of(ValueError, "GradNorm needs the tasks' gradients: pass .* as features=", losses)


def test_features_that_need_no_gradient_are_refused(refusal):
    losses, z = refusal.model.compute()
    refusal.of(ValueError, "the features need no gradient", losses, features=[each.detach() for each in z])


def test_a_loss_that_does_not_depend_on_the_features_is_refused(refusal):
    losses, z = refusal.model.compute()
    losses[1] = loss_of(1, refusal.model.modules["heads"][1](z[1].detach()))
    named = dict(zip("abc", losses, strict=True))
    refusal.of(
        ValueError, "loss of 'b' does not depend on the features", named, features=z, shared=refusal.model.encoder
    )


def test_missing_shared_parameters_are_refused(refusal):
    losses, z = refusal.model.compute()
    refusal.of(ValueError, "pass the encoder as shared=", losses, features=z)


def test_frozen_shared_parameters_are_refused(refusal):
    refusal.model.encoder[-1].weight.requires_grad_(requires_grad=False)
    losses, z = refusal.model.compute()
    refusal.of(ValueError, "no shared parameter requires a gradient", losses, features=z, shared=refusal.model.encoder)
    refusal.of(ValueError, "no shared parameter requires a gradient", losses, features=z, shared=[])


def test_shared_parameters_that_the_features_do_not_reach_are_refused(refusal):
    losses, z = refusal.model.compute()
    other = nn.Linear(3, 3).double()
    refusal.of(ValueError, "features do not depend on the shared parameters", losses, features=z, shared=other)


def test_shared_layers_without_a_matrix_are_refused(refusal):
    losses, z = refusal.model.compute()
    refusal.of(
        ValueError, "LayerNorm has no layer with a weight matrix or kernel", losses, features=z, shared=nn.LayerNorm(3)
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_by_name(refusal, bad):
    losses, z = refusal.model.compute()
    losses[1] = losses[1] * bad
    named = dict(zip(("depth", "edges", "normals"), losses, strict=True))
    arguments = {"features": z, "shared": refusal.model.encoder}
    refusal.of(NonFiniteError, rf"Non-finite loss of 'edges' \({bad}\)\.", named, **arguments)
    refusal.of(NonFiniteError, rf"Non-finite loss of task 1 \({bad}\)\.", losses, **arguments)


def test_every_loss_that_is_not_finite_is_named(refusal):
    losses, z = refusal.model.compute()
    losses[0], losses[2] = losses[0] * math.nan, losses[2] * -math.inf
    refusal.of(NonFiniteError, r"task 0 \(nan\), task 2 \(-inf\)\.", losses, features=z, shared=refusal.model.encoder)


def test_a_gradient_that_is_not_finite_is_refused_by_name(refusal):
    losses, z = refusal.model.compute()
    losses[2] = (z[2] * 0).sum().abs().sqrt() + losses[2]  # finite, and its derivative is 0 / 0
    refusal.of(NonFiniteError, "Non-finite gradient of task 2", losses, features=z, shared=refusal.model.encoder)


@pytest.mark.parametrize("strategy", [Fixed(2), Uncertainty(2, ["laplace", "laplace"])])
def test_plain_strategies_refuse_a_loss_that_is_not_finite_too(strategy):
    point = nn.Parameter(torch.ones(()))
    with pytest.raises(NonFiniteError, match=r"task 0 \(nan\)"):
        backward([point * math.nan, point * 1], strategy=strategy)
    assert point.grad is None
    assert all(parameter.grad is None for parameter in strategy.parameters())


def test_a_measurement_without_a_gramian_has_no_norms():
    assert Measurement(torch.ones(1), torch.ones(1)).gradient_norms is None
