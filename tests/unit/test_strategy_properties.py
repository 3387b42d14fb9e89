"""What every loss-weighting strategy has to do, tried on each that ships.

The properties are those that the conformance kit tests of anyone's strategy, in mtlkit/testing/strategies.py, and some
more that are not for every strategy to have. A new strategy is one new row in ``STRATEGIES``, or one for each way to
set its options; what it is known not to have, its row says.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.builtins import BUILTINS
from mtlkit.errors import NonFiniteError
from mtlkit.strategies import (
    DBMTL,
    DWA,
    FAMO,
    GLS,
    IMTL,
    IMTLG,
    IMTLL,
    MGDA,
    MGDAUB,
    MOML,
    RLW,
    STCH,
    AlignedMTL,
    AutoLambda,
    CAGrad,
    ConFIG,
    DualProj,
    ExcessMTL,
    FairGrad,
    Fixed,
    GradDrop,
    GradNorm,
    GradVac,
    MoCo,
    MoDo,
    NashMTL,
    Needs,
    PCGrad,
    SDMGrad,
    Uncertainty,
    UPGrad,
)
from mtlkit.testing import Nonconformance
from mtlkit.testing.problem import train
from mtlkit.testing.strategies import CHECKS, ask, maker_of
from mtlkit.testing.subject import Subject

RANDOM = "draws random numbers, for tasks by their place"
SIGNED = "weights may be negative"
UNFAIR = "equal tasks may weigh differently, since they can be exchanged for one another"
COUPLED = "a step changes the weights of tasks that are absent from it"


def row(component, *lacks, **options):
    """Return what a strategy is built from, and what of the properties below it lacks."""
    named = "-".join([component.__name__, *(f"{name}={value}" for name, value in options.items())])
    return pytest.param(Subject.of(component, options=options), lacks, id=named)


STRATEGIES = [
    row(AlignedMTL, SIGNED, UNFAIR),
    row(CAGrad, UNFAIR),
    row(CAGrad, UNFAIR, c=0.9, rescale=True),
    row(DualProj, UNFAIR),
    row(DualProj, UNFAIR, preference=[1.0, 2.0, 0.5]),
    row(FairGrad),
    row(MGDA, UNFAIR),
    row(MGDA, UNFAIR, normalize="loss+"),
    row(MGDAUB, UNFAIR),
    row(MoCo, COUPLED),
    row(MoDo, COUPLED),
    row(NashMTL),
    row(SDMGrad, UNFAIR),
    row(SDMGrad, UNFAIR, preference=[1.0, 2.0, 0.5]),
    row(UPGrad, UNFAIR),
    row(UPGrad, UNFAIR, preference=[1.0, 2.0, 0.5]),
    row(AlignedMTL, SIGNED, UNFAIR, preference=[1.0, 2.0, 0.5]),
    row(AutoLambda, SIGNED),
    row(AutoLambda, SIGNED, primary=["task 0"], optimizer="sgd", lr=0.05),
    row(AutoLambda, lr=0.05, floor=0.0),
    row(ConFIG, UNFAIR),
    row(ConFIG, SIGNED, UNFAIR, preference=[1.0, 2.0, 0.5]),
    row(DBMTL),
    row(DBMTL, beta=0.0),
    row(DWA),
    row(DWA, temperature=0.5),
    row(ExcessMTL, COUPLED),
    row(FAMO),
    row(FAMO, optimizer="sgd", lr=0.1, lower_bound=-1.0),
    row(GLS),
    row(GradDrop),
    row(GradDrop, leak=[0.5, 0.0, 1.0]),
    row(GradVac, RANDOM),
    row(IMTL, UNFAIR),
    row(IMTLG, UNFAIR),
    row(IMTLL),
    row(MOML, COUPLED),
    row(MOML, COUPLED, normalize="l2", optimizer="sgd", lr=0.1),
    row(PCGrad, RANDOM),
    row(RLW, RANDOM),
    row(STCH),
    row(STCH, warmup=2, mu=0.1),
    row(Fixed),
    row(Fixed, alpha=[1.0, 1.5, 2.0]),  # for as many tasks as there are, over and over
    row(GradNorm),
    row(GradNorm, alpha=0.5, optimizer="sgd", lr=1e-3),
    row(GradNorm, initial_loss="log-classes"),
    row(Uncertainty),
    row(Uncertainty, lr=0.1),
]

PERMUTATION = "permuting_the_tasks_permutes_the_weights"
SCALES = [0.0, 1e-30, 1e-3, 1.0, 1e3, 1e30]


def having(*properties):
    """Parametrize over what builds each strategy that lacks none of these properties."""
    rows = [each for each in STRATEGIES if not set(properties) & set(each.values[1])]
    return pytest.mark.parametrize("make", [pytest.param(maker_of(each.values[0]), id=each.id) for each in rows])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute on one thread: there is nothing here to share among several, and waiting for one another takes long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_strategy_that_ships_is_here():
    shipped = {value.rpartition(":")[2] for kind, _, value in BUILTINS if kind == "strategies"}
    assert {each.values[0].component.__name__ for each in STRATEGIES} == shipped


@pytest.mark.parametrize(("subject", "lacks"), STRATEGIES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_keeps_what_every_strategy_promises(check, subject, lacks):
    if check.name == PERMUTATION and RANDOM in lacks:
        with pytest.raises(Nonconformance, match="With the tasks in the order"):
            check.run(subject)
    else:
        check.run(subject)


@having(RANDOM)
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(4)))
def test_permuting_the_tasks_permutes_the_weights_to_rounding(make, order):
    straight = train(make.problem(range(4)), make(range(4)), 4)
    permuted = train(make.problem(order), make(order), 4)
    torch.testing.assert_close(permuted, straight[:, order], rtol=1e-8, atol=0)


@having(RANDOM, UNFAIR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tasks", [[0, 0, 0], [1, 1, 1, 0], [2, 2, 2, 0]])
def test_equal_tasks_are_weighed_alike(make, dtype, tasks):
    for weights in train(make.problem(tasks, dtype), make(tasks), 5).tolist():
        assert weights[:3] == pytest.approx([weights[0]] * 3, rel=1e-6)


@having()
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_scale_gives_finite_weights(make, data):
    strategy = make(range(3))
    three = st.lists(st.sampled_from(SCALES), min_size=3, max_size=3)
    for _ in range(4):
        losses, norms = data.draw(three), torch.tensor(data.draw(three), dtype=torch.float64)
        directions = torch.eye(3, dtype=torch.float64)[data.draw(st.permutations(range(3)))]
        parallel = data.draw(st.booleans())
        gradients = norms[:, None] * (directions[:1] if parallel else directions)
        assert ask(strategy, losses, gradients).weights.isfinite().all()


def spoilt(make, what, task):
    """Return a problem of which something is not finite by now, and a strategy in the middle of training on it."""
    problem, strategy = make.problem(range(3)), make(range(3))
    train(problem, strategy, 2)
    if what == "input":
        problem.rows[1] = math.nan
    elif what == "loss":
        problem.factors[task] = math.inf
    else:  # finite, and its derivative at the features is 0 / 0
        plain = problem.losses

        def losses(z):
            made = plain(z)
            made[task] = made[task] + (0 * z.sum()).abs().sqrt()
            return made

        problem.losses = losses
    return problem, strategy


@having()
@pytest.mark.parametrize(("what", "task"), [("input", 0), ("loss", 0), ("loss", 2), ("gradient", 1)])
def test_what_is_not_finite_is_refused_and_changes_nothing(make, what, task):
    problem, strategy = spoilt(make, what, task)
    if what == "gradient" and strategy.needs is Needs.LOSSES and not strategy.looks_ahead:
        pytest.skip("it is shown no gradient")
    for parameter in [*problem.parameters(), *strategy.parameters()]:
        parameter.grad = None
    everything = [*problem.state_dict().values(), *strategy.state_dict().values(), torch.get_rng_state()]
    before = [value.clone() for value in everything]
    with pytest.raises(Nonconformance) as caught:
        problem.backward(strategy)
    assert isinstance(caught.value.__cause__, NonFiniteError)
    assert task in caught.value.__cause__.places or (what == "gradient" and strategy.looks_ahead)
    after = [*problem.state_dict().values(), *strategy.state_dict().values(), torch.get_rng_state()]
    assert all(torch.equal(one.nan_to_num(7), other.nan_to_num(7)) for one, other in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in [*problem.parameters(), *strategy.parameters()])


@having(SIGNED)
@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.0, -0.5, -1.0])
def test_no_weight_is_negative(make, cosine):
    strategy = make(range(2))
    second = torch.tensor([cosine, (1 - cosine**2) ** 0.5], dtype=torch.float64)
    for scale in SCALES:
        gradients = torch.stack([torch.tensor([1.0, 0.0], dtype=torch.float64), scale * second])
        for losses in ([1.0, 2.0], [scale, 1.0]):
            assert (ask(strategy, losses, gradients).weights >= 0).all()


@having(RANDOM, COUPLED)
def test_a_task_that_was_absent_weighs_what_it_did(make):
    problem, strategy = make.problem(range(3)), make(range(3))
    train(problem, strategy, 3)
    before = copy.deepcopy(strategy).eval()
    problem.backward(strategy, [0, 2])
    strategy.eval()
    assert problem.backward(strategy).weights[1] == problem.backward(before).weights[1]


@having()
def test_construction_draws_no_random_number(make):
    before = torch.get_rng_state()
    make.construct(range(2))
    assert torch.equal(torch.get_rng_state(), before)


@having()
def test_no_task_is_refused_in_plain_words(make):
    with pytest.raises(ValueError, match=r"at least 1; received 0|needs the number of classes"):
        make.construct([])
