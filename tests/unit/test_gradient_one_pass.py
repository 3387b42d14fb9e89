"""Batches that go through the encoder as one: what each task's gradient is, and what it takes to know."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtlkit import backward
from mtlkit.gradients.cut_by_rows import CutByRows
from mtlkit.gradients.losses import StepLosses
from mtlkit.gradients.slices import Slice, slices_of
from mtlkit.strategies import MGDA, MGDAUB, GradNorm, Needs, Over, PCGrad, Strategy, UPGrad, Weighting

PLACES = [None, *Over]
SIZES = [5, 3, 8, 2]
ALIKE = [4, 4, 4, 4]
over_each = pytest.mark.parametrize("over", PLACES)


class Constant(Strategy):
    """Constant weights, and a Gram matrix over a place of choice."""

    def __init__(self, n_tasks, over):
        super().__init__(n_tasks)
        self.needs, self.over = Needs.LOSSES if over is None else Needs.GRAMIAN, over

    def weights(self, losses, gramian=None, tasks=None):
        every = torch.linspace(0.5, 2, self.n_tasks, dtype=torch.float64)
        return Weighting(every if tasks is None else every[tasks])


class Model(nn.Module):
    """An encoder, four heads and a batch for each; the same whenever it is made."""

    def __init__(self, *, deep=False, dtype=torch.float64, dropout=0.0, sizes=SIZES):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.Sequential(
                nn.Linear(4, 6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 5), nn.ReLU()
            )
            self.heads = nn.ModuleList(
                nn.Sequential(nn.Tanh(), nn.Linear(5, 3)) if deep else nn.Linear(5, 3) for _ in sizes
            )
            self.batches = [torch.randn(n, 4) for n in sizes]
            self.targets = [torch.randint(3, (n,)) for n in sizes]
        self.to(dtype)
        self.batches = [batch.to(dtype) for batch in self.batches]

    def forward(self, tasks=range(4), *, one_pass=True, prepare=lambda z: None):
        """Return the features and the losses of the tasks; `prepare` is shown what the encoder makes."""
        batches = [self.batches[task] for task in tasks]
        whole = [self.encoder(torch.cat(batches))] if one_pass else [self.encoder(batch) for batch in batches]
        for z in whole:
            prepare(z)
        features = whole[0].split([len(batch) for batch in batches]) if one_pass else whole
        losses = [
            F.cross_entropy(self.heads[task](z), self.targets[task]) for task, z in zip(tasks, features, strict=True)
        ]
        return list(features), losses


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(found, expected, rtol=1e-12, atol=1e-13):
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient is None) == (expected[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(
                gradient, expected[name], rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )


def weighed(model, strategy, *, one_pass, tasks=None, **arguments):
    features, losses = model(range(4) if tasks is None else tasks.tolist(), one_pass=one_pass)
    return backward(losses, strategy=strategy, features=features, shared=model.encoder, tasks=tasks, **arguments)


class Combining(Strategy):
    """One that combines gradients itself, at a place of choice."""

    def __init__(self, n_tasks, over):
        super().__init__(n_tasks)
        self.needs, self.over = Needs.JACOBIAN, over

    def combine(self, losses, jacobian, tasks=None):
        weights = torch.linspace(0.5, 2, self.n_tasks, dtype=torch.float64)
        weights = weights if tasks is None else weights[tasks]
        return Weighting(weights, direction=torch.tanh(weights.to(jacobian) @ jacobian))


@over_each
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("sizes", [SIZES, ALIKE])
@pytest.mark.parametrize("tasks", [None, torch.tensor([0, 2, 3]), torch.tensor([1, 3])])
@pytest.mark.parametrize("heads", ["weighted", "plain"])
def test_gradients_are_those_of_separate_passes(over, deep, sizes, tasks, heads):
    both = []
    for one_pass in (True, False):
        model = Model(deep=deep, sizes=sizes)
        arguments = {
            "preference": torch.linspace(1, 2, 4 if tasks is None else len(tasks)),
            "scale": 0.5,
            "loss_scale": 1024.0,
            "heads": heads,
        }
        measured = weighed(model, Constant(4, over), one_pass=one_pass, tasks=tasks, **arguments)
        both.append((measured, gradients(model)))
    (measured, found), (expected, others) = both
    assert_same(found, others)
    if over is not None:
        torch.testing.assert_close(measured.gramian, expected.gramian, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("over", list(Over))
@pytest.mark.parametrize("sizes", [SIZES, ALIKE])
def test_combined_gradients_are_those_of_separate_passes(over, sizes):
    both = []
    for one_pass in (True, False):
        model = Model(sizes=sizes)
        weighed(model, Combining(4, over), one_pass=one_pass, scale=0.5, loss_scale=1024.0)
        both.append(gradients(model))
    assert_same(*both)


@over_each
@pytest.mark.parametrize("sizes", [SIZES, ALIKE])
def test_tasks_may_stand_in_another_order_than_their_rows(over, sizes):
    """And rows may be nobody's, which then add nothing."""
    both = []
    for one_pass in (True, False):
        model = Model(sizes=sizes)
        rows = [model.batches[task] for task in (2, 0, 3, 1)]
        made = model.encoder(torch.cat(rows)).split([len(x) for x in rows]) if one_pass else map(model.encoder, rows)
        features = dict(zip((2, 0, 3, 1), made, strict=True))
        losses = [F.cross_entropy(model.heads[task](features[task]), model.targets[task]) for task in range(3)]
        given = [features[task] for task in (1, 2, 0)] if one_pass else [features[task] for task in range(3)]
        found = backward(losses, strategy=Constant(3, over), features=given, shared=model.encoder)
        both.append((found.gramian, gradients(model)))
    (gramian, found), (expected, others) = both
    assert_same(found, others)
    if over is not None:
        torch.testing.assert_close(gramian, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [MGDA, MGDAUB, GradNorm, PCGrad, UPGrad])
def test_strategies_from_the_shelf_train_alike(kind):
    both = []
    for one_pass in (True, False):
        torch.manual_seed(3)
        model, strategy = Model(), kind(4)
        optimizer = torch.optim.SGD([{"params": model.parameters()}, *strategy.parameter_groups()], lr=0.1)
        for _ in range(5):
            weighed(model, strategy, one_pass=one_pass)
            optimizer.step()
            optimizer.zero_grad()
        both.append(dict(model.named_parameters()))
    assert_same(*both, rtol=1e-9, atol=1e-12)


@over_each
def test_dropout_is_what_was_drawn_in_the_pass(over):
    """The masks of the pass count: the gradients are those of its own graph."""
    model = Model(dropout=0.5)
    features, losses = model()
    strategy = Constant(4, over)
    weights = strategy.weights(torch.zeros(4)).weights.tolist()
    objective = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    expected = torch.autograd.grad(objective, list(model.parameters()), retain_graph=True)
    backward(losses, strategy=strategy, features=features, shared=model.encoder)
    assert_same(gradients(model), dict(zip(gradients(model), expected, strict=True)))


@over_each
def test_bfloat16_autocast(over):
    """Within its precision, the gradients are those of separate passes."""
    both = []
    for one_pass in (True, False):
        model = Model(dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            features, losses = model(one_pass=one_pass)
        backward(losses, strategy=Constant(4, over), features=features, shared=model.encoder)
        both.append(gradients(model))
    assert_same(*both, rtol=0.05, atol=0.005)


@over_each
@pytest.mark.parametrize("place", ["encoder.0", "encoder.3", "encoder.5", "heads.1"])
def test_hooks_between_the_layers_act_once(over, place):
    both = []
    for one_pass in (True, False):
        model = Model()
        model.get_submodule(place).register_forward_hook(
            lambda _, __, made: made.register_hook(lambda g: -0.5 * g) and None
        )
        weighed(model, Constant(4, over), one_pass=one_pass)
        both.append(gradients(model))
    assert_same(*both)


@pytest.mark.parametrize("over", [Over.LAST_SHARED, Over.PARAMETERS])
def test_what_is_measured_knows_of_a_hook_on_the_features(over):
    """A hook on what the encoder made of all rows changes what its weights get."""
    measured = []
    for factor in (1, 3):
        model = Model()
        features, losses = model(prepare=lambda z, by=factor: z.register_hook(lambda g: by * g))
        found = backward(losses, strategy=Constant(4, over), features=features, shared=model.encoder)
        measured.append(found.gramian)
    torch.testing.assert_close(9 * measured[0], measured[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("over", [Over.LAST_SHARED, Over.FEATURES])
@pytest.mark.parametrize("sizes", [SIZES, ALIKE])
def test_the_features_of_all_rows_are_the_place_to_cut(over, sizes):
    """Where nothing is to be heard of there; the last layer then has to be the one whose outputs they are made of."""
    model = Model(sizes=sizes)
    weights = {
        Over.FEATURES: None,
        Over.LAST_SHARED: [model.encoder[5].weight],
    }[over]

    def cut(features, losses, at):
        step = StepLosses.of(losses, (), Constant(4, over), None, None)
        return CutByRows.of(step, features, at, 1.0)

    assert cut(*model(), weights) is not None
    assert cut(*model(prepare=lambda z: z.register_hook(lambda g: 2 * g)), weights) is None
    assert cut(*model(prepare=lambda z: z.retain_grad()), weights) is None
    assert cut(*model(one_pass=False), weights) is None
    assert cut(*model(), [model.encoder[3].weight]) is None


def passes(model, over, *, features=True, one_pass=True):
    """Return how often a backward pass came through the first layer."""
    heard = []
    model.encoder[0].register_forward_hook(lambda _, __, made: made.register_hook(heard.append) and None)
    z, losses = model(one_pass=one_pass)
    backward(losses, strategy=Constant(4, over), features=z if features else None, shared=model.encoder)
    return len(heard)


@over_each
def test_one_backward_pass_tells_the_gradients_of_all_tasks(over):
    assert passes(Model(), over) == 1


def test_where_features_are_not_given_each_task_takes_a_pass():
    assert passes(Model(), Over.PARAMETERS, features=False) == 4


def test_an_encoder_of_other_layers_takes_a_pass_for_each_task():
    model = Model()
    model.encoder.insert(1, nn.LayerNorm(6).double())
    assert passes(model, Over.PARAMETERS) == 4


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (lambda z: z.split(3)[1], (3, 6)),
        (lambda z: z.split(3)[2], (6, 8)),
        (lambda z: z.split([3, 5])[1], (3, 8)),
        (lambda z: torch.split_with_sizes_copy(z, [3, 5])[1], (3, 8)),
        (lambda z: z.chunk(3)[2], (6, 8)),
        (lambda z: z.tensor_split(3)[2], (6, 8)),
        (lambda z: z.narrow(0, 2, 3), (2, 5)),
        (lambda z: z.narrow(0, -3, 2), (5, 7)),
        (lambda z: z[2:5], (2, 5)),
        (lambda z: z[:-2], (0, 6)),
        (lambda z: z[-2:], (6, 8)),
        (lambda z: z[5:100], (5, 8)),
        (lambda z: z[4:2], (4, 4)),
        (lambda z: torch.ops.aten.slice(z, 0, None, 4), (0, 4)),
        (lambda z: torch.ops.aten.slice(z, 0, -3), (5, 8)),
        (lambda z: z[::2], None),
        (lambda z: z[:, 1:], None),
        (lambda z: z.split(2, 1)[0], None),
        (lambda z: z[torch.arange(3)], None),
        (lambda z: z[0], None),
        (lambda z: z + 1, None),
        (lambda z: z.detach()[2:5], None),
        (lambda z: z[2:5].relu(), None),
    ],
)
def test_slices_of_rows_are_recognised(cut, expected):
    z = nn.Linear(3, 4)(torch.randn(8, 3))
    tensor = cut(z)
    found = Slice.of(tensor)
    assert (found and (found.rows.start, found.rows.stop)) == expected
    if found is not None:
        assert found.n_rows == 8
        assert torch.equal(z[found.rows], tensor)


def test_slices_are_of_one_tensor_and_of_rows_of_their_own():
    z, other = nn.Linear(3, 4)(torch.randn(8, 3)), nn.Linear(3, 4)(torch.randn(8, 3))
    assert [each.rows for each in slices_of([z[4:], z[1:3]])] == [slice(4, 8), slice(1, 3)]
    assert slices_of([z[:4], z[3:]]) is None
    assert slices_of([z[:4], other[4:]]) is None
    assert slices_of([z[:4], z]) is None
    assert slices_of([]) is None


@over_each
def test_hooks_on_the_outputs_of_heads_of_one_batch(over):
    """Two tasks of a batch, beside one of another: the pass goes through their heads to what comes before."""
    both = []
    for one_pass in (True, False):
        model = Model()
        for head in model.heads:
            head.register_forward_hook(lambda _, __, made: made.register_hook(lambda g: -0.5 * g) and None)
        batches = model.batches[:2]
        z = model.encoder(torch.cat(batches)).split([5, 3]) if one_pass else [model.encoder(rows) for rows in batches]
        features = [z[0], z[1], z[0]]
        losses = [F.cross_entropy(model.heads[t](z), model.targets[t % 2]) for t, z in enumerate(features)]
        backward(losses, strategy=Constant(3, over), features=features, shared=model.encoder)
        both.append(gradients(model))
    assert_same(*both)
