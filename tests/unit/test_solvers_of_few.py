"""The solvers of few tasks, in plain numbers, against the general ones; and what they leave to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit import strategies
from mtlkit.solvers import (
    cagrad_weights,
    dual_cone,
    few,
    min_norm_point,
    nash_weights,
    project_to_simplex,
    simplex_qp,
)

SIZES = tuple(range(2, few.FEW + 1))
ORDINARY = ("free", "shared", "conflicting", "scaled")
KINDS = (*ORDINARY, "far apart", "duplicated", "nearly duplicated", "opposite", "collinear", "dependent", "with zeros")
MANY = 6  # tasks, whose conflicting gradients are projected one by one
seeds = st.integers(0, 2**32 - 1)


def gradients(seed, size, kind):
    """Return random gradients of one kind ``[T, P]``; ordinary ones have many more numbers than there are of them."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(size, 100 if kind in ORDINARY else int(generator.choice([2, 5, 100]))))
    common = generator.normal(size=rows.shape[1])
    if kind in ("shared", "conflicting"):
        signs = np.ones((size, 1)) if kind == "shared" else generator.choice([-1.0, 1.0], size=(size, 1))
        rows += signs * generator.uniform(0.3, 1.2) * common
    if kind in ("scaled", "far apart"):
        reach = 1 if kind == "scaled" else 20
        rows *= 10 ** generator.uniform(-reach, reach, size=(size, 1))
    if kind == "duplicated":
        rows = rows[generator.integers(size, size=size)]
    if kind == "nearly duplicated":
        rows = rows[generator.integers(size, size=size)] + 10.0 ** generator.integers(-12, -1) * rows
    if kind == "opposite":
        rows[-1] = -rows[0] * 10.0 ** generator.integers(-3, 4)
    if kind == "collinear":
        rows = generator.normal(size=(size, 1)) * common
    if kind == "dependent":
        rows[-1] = generator.normal(size=size - 1) @ rows[:-1]
    if kind == "with zeros":
        rows[generator.integers(size)] = 0
    return rows * 10.0 ** generator.integers(-20, 20)


def gramian(seed, size, kind):
    rows = gradients(seed, size, kind)
    return rows @ rows.T


def slope(matrix, seed):
    generator = np.random.default_rng(seed)
    return 10 ** generator.uniform(-2, 1) * matrix @ generator.dirichlet(np.ones(len(matrix)))


def reference(size, seed):
    return np.random.default_rng(seed).uniform(0, 2, size=(2, size))


def units(size):
    """Return rows of the identity: all of them, or as many as are not left to the general solver."""
    return np.eye(size)[: size if size <= MANY else 5]


# Of each solver: its answer in plain numbers, and the general one, both for a Gram matrix and a seed of what else it is
# given.
SOLVERS = {
    "min_norm": (lambda m, _: few.min_norm_of_few(m.tolist()), lambda m, _: min_norm_point(m)),
    "simplex_qp": (
        lambda m, seed: few.simplex_qp_of_few(m.tolist(), slope(m, seed).tolist()),
        lambda m, seed: simplex_qp(m, slope(m, seed)),
    ),
    "cagrad": (
        lambda m, seed: few.cagrad_of_few(m.tolist(), (0.05, 0.4, 1.0, 3.0)[seed % 4]),
        lambda m, seed: cagrad_weights(m, (0.05, 0.4, 1.0, 3.0)[seed % 4]),
    ),
    "upgrad": (
        lambda m, _: few.dual_cone_of_few(m.tolist(), None if len(m) <= MANY else units(len(m)).tolist()),
        lambda m, _: dual_cone(m, units(len(m))),
    ),
    "dual_cone": (
        lambda m, seed: few.dual_cone_of_few(m.tolist(), reference(len(m), seed).tolist()),
        lambda m, seed: dual_cone(m, reference(len(m), seed)),
    ),
    "nash": (
        lambda m, seed: few.nash_of_few(m.tolist(), (0.5, 1.0, 1.0, 2.0)[seed % 4]),
        lambda m, seed: nash_weights(m, (0.5, 1.0, 1.0, 2.0)[seed % 4]).weights,
    ),
}


def assert_same(matrix, answer, expected, tolerance):
    """Compare what the weights make of each gradient, beside the most that they make of any."""
    norms = np.sqrt(matrix.diagonal())
    made = np.asarray(expected) * norms
    np.testing.assert_allclose(np.asarray(answer) * norms, made, rtol=0, atol=tolerance * np.abs(made).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("quick", "general"), SOLVERS.values(), ids=SOLVERS)
class TestEach:
    @settings(max_examples=50, deadline=None)
    @given(seed=seeds, kind=st.sampled_from(ORDINARY))
    def test_answers_to_ordinary_gradients_as_the_general_one_does(self, quick, general, size, seed, kind):
        matrix = gramian(seed, size, kind)
        answer = quick(matrix, seed)
        if answer is not None:
            assert_same(matrix, answer, general(matrix, seed), 1e-10)

    def test_leaves_next_to_no_ordinary_gradients_to_the_general_one(self, quick, general, size):
        left = [seed for seed in range(200) if quick(gramian(seed, size, ORDINARY[seed % 4]), seed) is None]
        assert len(left) <= 2

    @settings(max_examples=60, deadline=None)
    @given(seed=seeds, kind=st.sampled_from(KINDS))
    def test_answers_as_the_general_one_or_not_at_all(self, quick, general, size, seed, kind):
        matrix = gramian(seed, size, kind)
        answer = quick(matrix, seed)
        if answer is not None:
            assert_same(matrix, answer, general(matrix, seed), 1e-6)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
    def test_leaves_what_is_not_finite_to_the_general_one(self, quick, general, size, value):
        for place in ((0, 0), (size - 1, size - 1), (0, size - 1), (size - 1, 0)):
            matrix = gramian(0, size, "conflicting")
            matrix /= matrix.diagonal().max()
            matrix[place] = value
            if not math.isfinite(value):
                assert quick(matrix, 0) is None
                assert quick(matrix, 1) is None
                with pytest.raises(ValueError, match="NaN or infinite"):
                    general(matrix, 0)
            elif place[0] == place[1]:
                assert quick(matrix, 0) is None

    def test_leaves_zero_gradients_to_the_general_one(self, quick, general, size):
        matrix = gramian(0, size, "free")
        matrix[0] = matrix[:, 0] = 0
        assert quick(matrix, 0) is None
        assert np.isfinite(general(matrix, 0)).all()

    def test_takes_a_lopsided_matrix_for_its_symmetric_part(self, quick, general, size):
        matrix = gramian(0, size, "conflicting")
        matrix /= matrix.diagonal().max()
        lopsided = matrix + 1e-9 * np.triu(np.ones((size, size)), 1) - 1e-9 * np.tril(np.ones((size, size)), -1)
        assert_same(matrix, quick(lopsided, 1), general(matrix, 1), 1e-8)


@pytest.mark.parametrize("size", SIZES)
def test_ties_are_left_to_the_general_ones(size):
    equal = np.ones((size, size)).tolist()
    if size > 2:
        assert few.min_norm_of_few(equal) is None
        assert few.cagrad_of_few(equal, 0.5) is None
    assert few.nash_of_few([[1.0, -1.0], [-1.0, 1.0]]) is None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf, 1e-300, 1e300])
def test_numbers_far_from_1_are_left_to_the_general_ones(size, number):
    matrix = gramian(0, size, "conflicting").tolist()
    assert few.nash_of_few(matrix, number) is None
    assert few.cagrad_of_few(matrix, number) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-3, 3) | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=few.FEW))
def test_projects_on_the_simplex_as_the_general_one_does(v):
    assert few.project_few_to_simplex(v) == pytest.approx(project_to_simplex(v).tolist(), abs=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_projects_nothing_that_is_not_finite(value):
    assert few.project_few_to_simplex([1.0, value]) is None


def test_many_rows_that_conflict_are_left_to_the_general_one():
    conflicting = gramian(2, 8, "conflicting").tolist()
    assert few.dual_cone_of_few(conflicting) is None
    assert few.dual_cone_of_few(conflicting, np.eye(8)[:5].tolist()) is not None


def test_eigenvectors_of_two_are_those_that_lapack_finds():
    for seed in range(200):
        matrix = gramian(seed, 2, KINDS[seed % len(KINDS)])
        values, vectors = few.eigen_of(matrix.tolist())
        expected, _ = np.linalg.eigh(matrix)
        assert values == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-14 * expected[-1])
        basis = np.array(vectors)
        np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-14)
        np.testing.assert_allclose((basis.T * values) @ basis, matrix, rtol=0, atol=1e-14 * np.abs(matrix).max())


STRATEGIES = {
    "mgda": strategies.MGDA,
    "mgda l2": lambda n: strategies.MGDA(n, normalize="l2"),
    "cagrad": strategies.CAGrad,
    "cagrad rescaled": lambda n: strategies.CAGrad(n, c=0.8, rescale=True),
    "cagrad c 0": lambda n: strategies.CAGrad(n, c=0.0),
    "nash-mtl": strategies.NashMTL,
    "fairgrad": strategies.FairGrad,
    "upgrad": strategies.UPGrad,
    "upgrad preferring": lambda n: strategies.UPGrad(n, preference=[1.0 + task for task in range(n)]),
    "dualproj": strategies.DualProj,
    "aligned-mtl": strategies.AlignedMTL,
    "aligned-mtl preferring": lambda n: strategies.AlignedMTL(n, preference=[1.0 + task for task in range(n)]),
    "sdmgrad": strategies.SDMGrad,
    "imtl-g": strategies.IMTLG,
    "imtl": strategies.IMTL,
    "config": strategies.ConFIG,
    "config preferring": lambda n: strategies.ConFIG(n, preference=[1.0 + task for task in range(n)]),
    "modo": lambda n: strategies.MoDo(n, rho=0.1),
    "pcgrad": lambda n: strategies.PCGrad(n, seed=1),
    "gradvac": lambda n: strategies.GradVac(n, seed=1),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", STRATEGIES.values(), ids=STRATEGIES)
def test_a_strategy_weighs_few_tasks_as_it_weighs_many(make, size, monkeypatch):
    losses = torch.ones(size, dtype=torch.float64)
    grams = [torch.from_numpy(gramian(seed, size, ORDINARY[seed % len(ORDINARY)])) for seed in range(8)]
    grams.append(torch.from_numpy(gramian(8, size, "duplicated")))
    grams.append(torch.from_numpy(gramian(9, size, "with zeros")))
    absent = torch.arange(1, size)

    def weighed(strategy):
        found = [strategy.weights(losses, each).weights for each in grams]
        found += [strategy.weights(losses[1:], each[1:, 1:], absent).weights for each in grams]
        return [each.detach() for each in found], strategy.state_dict()

    found, state = weighed(make(size))
    for module in ("base", "config", "imtl_g", "modo", "nash_mtl"):
        monkeypatch.setattr(f"mtlkit.strategies.{module}.FEW", 0)
    expected, expected_state = weighed(make(size))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7 * float(theirs.abs().max()))
    torch.testing.assert_close(state, expected_state, rtol=1e-7, atol=1e-9)
