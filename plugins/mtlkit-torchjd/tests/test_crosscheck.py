"""mtlkit's strategies against TorchJD's, for every method that both have: the same direction for the same gradients.

Two implementations that share no code and no solver agree on 1,000 random Jacobians, up to a cosine of 1 - 1e-6. Where
they do not, the test says what TorchJD does otherwise, and holds mtlkit's answer against the paper's equation, which is
solved by SciPy, or checked as it stands. TorchJD is asked through the strategies of this plugin.

Letters: T tasks, P parameters, J a Jacobian ``[T, P]``, M = J J', d a direction ``[P]``.
"""

import importlib.util

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

import mtlkit_torchjd as theirs
from mtlkit import Needs
from mtlkit import strategies as ours
from mtlkit.strategies.pcgrad import _keys

MANY = 1000
CLOSE = 1e-6
EXACT = {"norm_eps": 0.0, "reg_eps": 1e-12}  # TorchJD's projector without its regularisation


def some(every):
    """Run a test on one Jacobian of so many, and on all of them where slow tests are asked for."""
    return pytest.mark.parametrize("every", [every, pytest.param(1, marks=pytest.mark.slow)])


def jacobians(count, seed=0):
    """Return Jacobians of 2 to 8 tasks in float64, one half with independent normal entries.

    Of the others, one half has singular values that fall evenly in their logarithm by up to a factor of 100, so that
    M is conditioned up to 1e4; the other half such ones with norms that differ by up to 10 besides.
    """
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        n_tasks = int(random.integers(2, 9))
        matrix = random.normal(size=(n_tasks, int(random.integers(n_tasks, 41))))
        if index % 2:
            left, _, right = np.linalg.svd(matrix, full_matrices=False)
            matrix = left * 100 ** -(random.uniform() * np.linspace(0, 1, n_tasks)) @ right
        if index % 4 == 3:
            matrix *= 10 ** random.uniform(-0.5, 0.5, size=(n_tasks, 1))
        made.append(torch.from_numpy(matrix))
    return made


JACOBIANS = jacobians(MANY)


def direction(strategy, jacobian):
    """Return the direction that a strategy answers for gradients, whatever it needs of them."""
    losses = torch.ones(len(jacobian), dtype=torch.float64)
    if strategy.needs is Needs.JACOBIAN:
        answer = strategy.combine(losses, jacobian.clone())
    else:
        answer = strategy.weights(losses, jacobian @ jacobian.T)
    return answer.weights.detach() @ jacobian if answer.direction is None else answer.direction


def apart(one, other):
    """Return 1 minus the cosine of two directions."""
    return 1 - float(one @ other / one.norm() / other.norm())


def farthest(pair, every=1):
    """Return the largest distance between the directions of a pair of strategies, made for each Jacobian."""
    distances = []
    for jacobian in JACOBIANS[::every]:
        one, other = pair(len(jacobian))
        distances.append(apart(direction(one, jacobian), direction(other, jacobian)))
    return np.max(distances)  # NaN where one is


def nearest_to_zero(points):
    """Return the point of least norm in the convex hull of points ``[T, P]``, by non-negative least squares.

    With x >= 0 and s = sum(x), ||points' x||^2 + (s - 1)^2 is least where x / s is that of least norm, whatever s.
    """
    system = np.vstack([points.T, np.ones(len(points))])
    x, _ = nnls(system, np.append(np.zeros(len(points.T)), 1.0))
    return x @ points / x.sum()


def projected(jacobian, weights):
    """Return J'w projected on {d : J d >= 0}: J'(w + x) with the x >= 0 that makes it shortest."""
    x, _ = nnls(jacobian.T, -(weights @ jacobian))
    return (weights + x) @ jacobian


class TestTheSameDirection:
    def test_aligned_mtl(self):
        assert farthest(lambda n: (ours.AlignedMTL(n), theirs.AlignedMTL(n))) < CLOSE

    @some(5)
    @pytest.mark.parametrize(
        ("name", "options"), [("AlignedMTL", {}), ("ConFIG", {}), ("DualProj", EXACT), ("UPGrad", EXACT)]
    )
    def test_with_preferences(self, name, options, every):
        def pair(n):
            liked = [1.0 + task for task in range(n)]
            mine = getattr(ours, name)(n, preference=liked)
            return mine, getattr(theirs, name)(n, pref_vector=liked, **options)

        assert farthest(pair, every) < CLOSE

    def test_config(self):
        assert farthest(lambda n: (ours.ConFIG(n), theirs.ConFIG(n))) < CLOSE

    def test_dualproj(self):
        assert farthest(lambda n: (ours.DualProj(n), theirs.DualProj(n, **EXACT))) < CLOSE

    def test_upgrad(self):
        assert farthest(lambda n: (ours.UPGrad(n), theirs.UPGrad(n, **EXACT))) < CLOSE

    @some(20)
    @pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
    def test_cagrad(self, c, every):
        assert farthest(lambda n: (ours.CAGrad(n, c=c), theirs.CAGrad(n, c=c)), every) < CLOSE

    @some(10)
    def test_fixed(self, every):
        def pair(n):
            weights = [1.0 + task for task in range(n)]
            return ours.Fixed(n, alpha=weights), theirs.Constant(n, weights=weights)

        assert farthest(pair, every) < CLOSE
        assert farthest(lambda n: (ours.Fixed(n), theirs.Sum(n)), every) < CLOSE
        assert farthest(lambda n: (ours.Fixed(n), theirs.Mean(n)), every) < CLOSE

    @some(5)
    def test_rlw_of_one_seed(self, every):
        assert farthest(lambda n: (ours.RLW(n, seed=n), theirs.Random(n, seed=n)), every) < CLOSE

    @some(5)
    def test_graddrop_of_one_seed(self, every):
        def pair(n):
            leak = [task / n for task in range(n)]
            return ours.GradDrop(n, seed=n, leak=leak), theirs.GradDrop(n, seed=n, leak=leak)

        assert farthest(pair, every) < CLOSE


class TestTheSameOrders:
    """PCGrad and GradVac draw orders, each in its own way: TorchJD is given those that mtlkit draws."""

    @pytest.fixture(autouse=True)
    def _orders(self, monkeypatch):
        self.drawn = []
        monkeypatch.setattr(torch, "randperm", lambda count: self.drawn.pop(0))

    def draw(self, n_tasks, seed, step):
        strategy = ours.PCGrad(n_tasks, seed=seed)
        for _ in range(step):
            strategy.draws.next(advance=True)
        return _keys(strategy.draws.next(advance=False), n_tasks, None).argsort(1)

    @some(5)
    def test_pcgrad(self, every):
        for seed, jacobian in enumerate(JACOBIANS[::every]):
            n = len(jacobian)
            self.drawn = list(self.draw(n, seed, 0))
            one, other = ours.PCGrad(n, seed=seed), theirs.PCGrad(n)
            assert apart(direction(one, jacobian), direction(other, jacobian)) < CLOSE

    @some(5)
    def test_gradvac(self, every):
        for seed, jacobian in enumerate(JACOBIANS[:: 5 * every]):
            n = len(jacobian)
            one, other = ours.GradVac(n, beta=0.3, seed=seed), theirs.GradVac(n, beta=0.3, eps=0.0)
            for step in range(5):  # from the second on, the usual cosines are not 0
                orders = self.draw(n, seed, step)
                others = [order[order != task] for task, order in enumerate(orders)]
                self.drawn = [order - (order > task).long() for task, order in enumerate(others)]
                given = jacobian.roll(step, 1) + 0.1 * step
                assert apart(direction(one, given), direction(other, given)) < CLOSE


class TestTheSameSteps:
    """Methods with a memory, over several steps."""

    @some(5)
    def test_modo(self, every):
        for jacobian in JACOBIANS[:: 5 * every]:
            n = len(jacobian)
            one, other = ours.MoDo(n, gamma=0.01, rho=0.1), theirs.MoDo(n, gamma=0.01, rho=0.1)
            for step in range(5):
                given = jacobian.roll(step, 0)
                assert apart(direction(one, given), direction(other, given)) < CLOSE

    @some(5)
    def test_excess_mtl(self, every):
        # Without a warm-up, TorchJD takes the first risks as they are, after the official code; with one of a step, it
        # takes them for what the later ones are relative to, as section 3.2 of the paper says and mtlkit does. What it
        # adds to sums of squares, 1e-7, is next to nothing for gradients as long as these.
        for jacobian in JACOBIANS[:: 5 * every]:
            n = len(jacobian)
            one, other = ours.ExcessMTL(n, eta=0.5), theirs.ExcessMTL(n, robust_step_size=0.5, n_warmup_steps=1)
            for step in range(5):
                given = 1e4 * (1 + step) * jacobian.roll(step, 1)
                assert apart(direction(one, given), direction(other, given)) < CLOSE


class TestWhatDiffers:
    @some(4)
    def test_the_cone_of_a_regularised_gram_matrix(self, every):
        # TorchJD adds 1e-4 to the diagonal of M, divided by its trace. Then v'Mv is not what is least, and J d >= 0,
        # the point of equation 3, does not hold. mtlkit's are the projections that SciPy finds.
        distances = []
        for jacobian in JACOBIANS[3::every]:
            n = len(jacobian)
            array, units = jacobian.numpy(), np.eye(n)
            for mine, other, exact in (
                (ours.DualProj(n), theirs.DualProj(n), projected(array, np.full(n, 1 / n))),
                (ours.UPGrad(n), theirs.UPGrad(n), np.mean([projected(array, unit) for unit in units], axis=0)),
            ):
                projection = torch.from_numpy(exact)
                assert apart(direction(mine, jacobian), projection) < 1e-9
                distances.append(apart(direction(other, jacobian), projection))
        assert np.median(distances) < 1e-5
        assert max(distances) > 0.01

    def test_the_sign_of_imtl_g(self):
        # Weights that sum to 1, as in equation 6, may belong to the direction that climbs every loss alike; mtlkit's
        # departure from the paper is to turn that one round.
        turned = 0
        for jacobian in JACOBIANS:
            n = len(jacobian)
            mine, other = direction(ours.IMTLG(n), jacobian), direction(theirs.IMTLG(n), jacobian)
            assert (jacobian @ mine > 0).all()
            if (jacobian @ other < 0).all():
                turned += 1
                other = -other
            assert apart(mine, other) < CLOSE
        assert 0 < turned < 0.1 * MANY

    @some(5)
    def test_the_shortest_combination(self, every):
        # TorchJD's MGDA is Frank-Wolfe, which is exact for two tasks; for more it ends above the least norm, by what
        # its 100 steps leave. mtlkit's is the least that SciPy finds.
        longer = 0
        for jacobian in JACOBIANS[::every]:
            n = len(jacobian)
            least = torch.from_numpy(nearest_to_zero(jacobian.numpy()))
            mine, other = direction(ours.MGDA(n), jacobian), direction(theirs.MGDA(n), jacobian)
            assert float(mine.norm()) <= float(least.norm()) * (1 + 1e-9)
            assert apart(mine, least) < 1e-9
            assert float(other.norm()) >= float(mine.norm()) * (1 - 1e-12)
            if n == 2:
                assert apart(mine, other) < CLOSE
            longer += apart(mine, other) >= CLOSE
        assert longer > 0

    @some(5)
    def test_the_steps_of_sdmgrad(self, every):
        # TorchJD takes 20 steps of the weights, from where they were, as the paper's algorithm does; mtlkit's weights
        # are where such steps lead to. Since sum(w) = 1, that is the shortest combination of the g_i + lambda g_0.
        for jacobian in JACOBIANS[::every]:
            moved = jacobian + 0.3 * jacobian.mean(0)
            least = torch.from_numpy(nearest_to_zero(moved.numpy()))
            assert apart(direction(ours.SDMGrad(len(jacobian), lam=0.3), jacobian), least) < 1e-9
        for jacobian in JACOBIANS[:: 40 * every]:
            n = len(jacobian)
            other = theirs.SDMGrad(n, lr=0.3, momentum=0.5, n_iter=1000)
            assert apart(direction(ours.SDMGrad(n, lam=0.3), jacobian), direction(other, jacobian)) < CLOSE

    @some(10)
    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_where_least_squares_stops(self, alpha, every):
        # SciPy's least squares, as TorchJD calls it, may stop where an equation of FairGrad's M w = w^(-1/alpha) is off
        # by some per cent; mtlkit's weights solve them.
        given = JACOBIANS[::every]
        stopped = 0
        for jacobian in given:
            n, gramian = len(jacobian), jacobian @ jacobian.T
            losses = torch.ones(n, dtype=torch.float64)
            mine, other = (
                each(n, alpha=alpha).weights(losses, gramian).weights for each in (ours.FairGrad, theirs.FairGrad)
            )
            torch.testing.assert_close((gramian @ mine) * mine ** (1 / alpha), losses, rtol=0, atol=1e-9)
            if ((gramian @ other) * other ** (1 / alpha) - 1).abs().max() > 0.01:
                stopped += 1
            else:
                assert apart(mine @ jacobian, other @ jacobian) < CLOSE
        assert stopped <= 0.01 * len(given)

    @some(100)
    @pytest.mark.skipif(importlib.util.find_spec("ecos") is None, reason="ecos has no wheel for this Python")
    def test_the_failures_of_nash_mtl(self, every):
        # Where ECOS fails, TorchJD answers its weights of the step before, at first 1 for each task. mtlkit's solve
        # the paper's M a = 1/a.
        failures = 0
        for jacobian in JACOBIANS[5::every]:
            n, gramian = len(jacobian), jacobian @ jacobian.T
            losses = torch.ones(n, dtype=torch.float64)
            mine = ours.NashMTL(n).weights(losses, gramian).weights
            torch.testing.assert_close(mine * (gramian @ mine), losses, rtol=0, atol=1e-8)
            other = theirs.NashMTL(n, max_norm=0.0).weights(losses, gramian).weights
            if torch.equal(other, losses):
                failures += 1
            else:
                assert apart(mine @ jacobian, other @ jacobian) < CLOSE
        assert 0 < failures < 0.5 * len(JACOBIANS[5::every])
