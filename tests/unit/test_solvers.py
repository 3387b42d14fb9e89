"""Each solver against SciPy, against brute force, and against the conditions that define its solution.

Where a test says that something is nearly 0, it says beside what: a sum is compared with the sum of the sizes of its
terms, since more is not known of it.
"""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.solvers import (
    cagrad_weights,
    dual_cone,
    min_norm_point,
    nash_weights,
    project_to_simplex,
    simplex_qp,
)

KINDS = ("plain", "shared", "scaled", "far apart", "duplicated", "opposite", "collinear", "with zeros", "tiny", "huge")
MILD = ("plain", "shared", "scaled", "tiny", "huge")
SIZES = (1, 2, 2, 3, 3, 4, 5, 8, 13, 30)


def draw(seed, *, kinds=KINDS, sizes=SIZES, full_rank=False):
    """Return random gradients ``[T, P]`` of one kind."""
    generator = np.random.default_rng(seed)
    kind, size = kinds[seed % len(kinds)], int(generator.choice(sizes))
    parameters = 3 * size + 2 if full_rank else int(generator.choice([1, 2, 3, 5, 10, 100]))
    gradients = generator.normal(size=(size, parameters))
    if kind == "shared":
        gradients += generator.uniform(0.3, 3) * generator.normal(size=parameters)
    if kind in ("scaled", "far apart"):
        reach = 3 if kind == "scaled" else 30
        gradients *= 10 ** generator.uniform(-reach, reach, size=(size, 1))
    if kind == "duplicated":
        gradients = gradients[generator.integers(size, size=size)]
    if kind == "opposite":
        gradients[-1] = -gradients[0] * 10.0 ** generator.integers(-3, 4)
    if kind == "collinear":
        gradients = generator.normal(size=(size, 1)) * gradients[0]
    if kind == "with zeros":
        gradients[generator.integers(size)] = 0
    return gradients * {"tiny": 1e-30, "huge": 1e30}.get(kind, 1.0)


def gramian(gradients):
    return gradients @ gradients.T


def large(seed, size, parameters=2000, shared=0.0):
    generator = np.random.default_rng(seed)
    gradients = generator.normal(size=(size, parameters)) * 10 ** generator.uniform(-1, 1, size=(size, 1))
    lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
    return gradients + shared * lengths * generator.normal(size=parameters) / math.sqrt(parameters)


def gaps(matrix, linear, weights):
    """Return the duality gap of each vertex, and the sum of the sizes of its terms."""
    slopes, sizes = matrix @ weights + linear, np.abs(matrix) @ weights + np.abs(linear)
    return weights @ slopes - slopes, weights @ sizes + sizes


def assert_in_simplex(weights, size):
    assert weights.shape == (size,)
    assert weights.dtype == np.float64
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)


@functools.cache
def grid(size, steps):
    """Return the points of a grid over the simplex ``[N, size]``."""
    points = [p for p in itertools.product(range(steps + 1), repeat=size) if sum(p) == steps]
    return np.array(points) / steps


seeds = st.integers(0, 2**32 - 1)


class TestProjectToSimplex:
    @staticmethod
    def exact(v):
        """Return the projection in rational numbers."""
        values = [Fraction(x) for x in v]
        total, theta = Fraction(0), None
        for count, value in enumerate(sorted(values, reverse=True), start=1):
            total += value
            if value > (total - 1) / count:
                theta = (total - 1) / count
        return [float(max(value - theta, 0)) for value in values]

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.floats(-3, 3) | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
    def test_is_the_rational_projection(self, v):
        weights = project_to_simplex(v)
        assert_in_simplex(weights, len(v))
        assert weights.tolist() == pytest.approx(self.exact(v), abs=1e-14)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30, 1e308])
    def test_at_any_scale(self, scale):
        for seed in range(100):
            v = np.random.default_rng(seed).uniform(-1, 1, size=seed % 20 + 1) * scale
            assert project_to_simplex(v).tolist() == pytest.approx(self.exact(v), abs=1e-14)

    def test_of_two_hundred(self):
        v = np.random.default_rng(0).normal(size=200)
        weights = project_to_simplex(v)
        (theta,) = {round(x, 12) for x in (v - weights)[weights > 0]}
        assert (v[weights == 0] <= theta + 1e-12).all()

    def test_leaves_the_simplex_as_it_is(self):
        v = np.random.default_rng(0).dirichlet(np.ones(50))
        assert project_to_simplex(v) == pytest.approx(v, abs=1e-15)

    def test_shares_among_equals(self):
        assert project_to_simplex(np.full(7, 1e30)) == pytest.approx(np.full(7, 1 / 7), abs=1e-15)

    @pytest.mark.parametrize("v", [[], [[1.0]], 1.0])
    def test_wants_a_vector(self, v):
        with pytest.raises(ValueError, match="a vector"):
            project_to_simplex(v)

    def test_wants_finite_numbers(self):
        with pytest.raises(ValueError, match="finite"):
            project_to_simplex([1.0, math.nan])


class TestMinNormPoint:
    @pytest.mark.parametrize("seed", range(0, 400, 40))
    def test_no_vertex_is_better(self, seed):
        for each in range(seed, seed + 40):
            matrix = gramian(draw(each))
            weights = min_norm_point(matrix)
            assert_in_simplex(weights, len(matrix))
            gap, size = gaps(matrix, 0, weights)
            assert (gap <= 1e-9 * size).all(), each

    @pytest.mark.parametrize(("size", "parameters"), [(60, 20), (100, 50), (139, 2000), (200, 5), (200, 2000)])
    @pytest.mark.parametrize("shared", [0.0, 0.7])
    def test_no_vertex_is_better_of_many(self, size, parameters, shared):
        matrix = gramian(large(size, size, parameters, shared))
        weights = min_norm_point(matrix)
        gap, terms = gaps(matrix, 0, weights)
        assert (gap <= 1e-9 * terms).all()

    @settings(max_examples=200, deadline=None)
    @given(seeds)
    def test_of_two_is_the_closed_form(self, seed):
        gradients = draw(seed, kinds=MILD, sizes=[2], full_rank=True)
        first, second = gradients
        expected = np.clip((second - first) @ second / ((first - second) @ (first - second)), 0, 1)
        assert min_norm_point(gramian(gradients)) == pytest.approx([expected, 1 - expected], abs=1e-12)

    @settings(max_examples=60, deadline=None)
    @given(seeds)
    def test_is_the_solution_of_nonnegative_least_squares(self, seed):
        gradients = draw(seed, kinds=["plain", "shared"], sizes=[3, 5, 9], full_rank=True)
        # min ||G x||^2 + (sum(x) - 1)^2 over x >= 0 is a multiple of the point of least norm.
        system = np.vstack([gradients.T, np.ones(len(gradients))])
        solution, _ = scipy.optimize.nnls(system, np.append(np.zeros(gradients.shape[1]), 1.0))
        assert min_norm_point(gramian(gradients)) == pytest.approx(solution / solution.sum(), abs=1e-8)

    @pytest.mark.parametrize("seed", range(20))
    def test_no_point_of_a_grid_is_better(self, seed):
        matrix = gramian(draw(seed, kinds=KINDS[:3], sizes=[3]))
        points = grid(3, 60)
        weights = min_norm_point(matrix)
        squares = np.einsum("ni,ij,nj->n", points, matrix, points)
        assert weights @ matrix @ weights <= squares.min() * (1 + 1e-12) + 1e-15 * np.abs(matrix).max()

    def test_weighs_a_small_gradient_right_beside_a_large_one(self):
        matrix = np.array([[1e-60, -0.5], [-0.5, 1e60]])
        first, second = min_norm_point(matrix)
        assert first == 1
        assert second == pytest.approx(0.5e-60, rel=1e-12)
        orthogonal = np.diag([1e-60, 1e60, 1.0])
        assert min_norm_point(orthogonal) == pytest.approx([1.0, 1e-120, 1e-60], rel=1e-10)

    def test_of_one(self):
        assert min_norm_point([[3.0]]).tolist() == [1.0]

    @pytest.mark.parametrize("size", [2, 5])
    def test_duplicates_share_alike(self, size):
        assert min_norm_point(np.ones((size, size))) == pytest.approx(np.full(size, 1 / size), abs=1e-12)

    def test_opposites_cancel(self):
        assert min_norm_point([[1.0, -2.0], [-2.0, 4.0]]) == pytest.approx([2 / 3, 1 / 3], abs=1e-12)
        three = gramian(np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0]]))
        assert min_norm_point(three) == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-9)

    def test_zero_gradients_take_all(self):
        assert min_norm_point(np.diag([1.0, 0.0, 2.0, 0.0])).tolist() == [0, 0.5, 0, 0.5]
        assert min_norm_point(np.zeros((3, 3))) == pytest.approx([1 / 3] * 3)

    @pytest.mark.parametrize("seed", range(30))
    def test_frank_wolfe_alone_gets_there(self, seed):
        matrix = gramian(draw(seed, kinds=["plain", "shared"], full_rank=True))
        weights = min_norm_point(matrix, limit=0)
        assert_in_simplex(weights, len(matrix))
        gap, _ = gaps(matrix, 0, weights)
        assert gap.max() <= 1e-9 * matrix.diagonal().max()

    @pytest.mark.parametrize("limit", [0, 1, 2, 5])
    def test_the_limit_leaves_a_point_of_the_simplex(self, limit):
        for seed in range(30):
            matrix = gramian(draw(seed))
            assert_in_simplex(min_norm_point(matrix, limit=limit), len(matrix))


class TestSimplexQP:
    @staticmethod
    def slope(seed, matrix):
        generator = np.random.default_rng(seed)
        if seed % 2:
            return 10 ** generator.uniform(-3, 3) * matrix.mean(axis=1)
        return generator.normal(size=len(matrix)) * matrix.diagonal().mean() * 10 ** generator.uniform(-3, 3)

    @pytest.mark.parametrize("seed", range(0, 400, 40))
    def test_no_vertex_is_better(self, seed):
        for each in range(seed, seed + 40):
            matrix = gramian(draw(each))
            linear = self.slope(each, matrix)
            weights = simplex_qp(matrix, linear)
            assert_in_simplex(weights, len(matrix))
            gap, _ = gaps(matrix, linear, weights)
            assert gap.max() <= 1e-9 * (matrix.diagonal().max() + np.ptp(linear)), each

    @pytest.mark.parametrize("size", [100, 200])
    @pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
    def test_no_vertex_is_better_of_many(self, size, factor):
        matrix = gramian(large(size, size))
        linear = factor * matrix.mean(axis=1)
        gap, terms = gaps(matrix, linear, simplex_qp(matrix, linear))
        assert (gap <= 1e-9 * terms).all()

    @pytest.mark.parametrize("seed", range(40))
    def test_agrees_with_slsqp(self, seed):
        matrix = gramian(draw(seed, kinds=["plain", "shared"], sizes=[2, 3, 4, 6], full_rank=True))
        matrix /= matrix.diagonal().max()
        linear = np.random.default_rng(seed).normal(size=len(matrix)) * 0.3
        found = scipy.optimize.minimize(
            lambda w: 0.5 * w @ matrix @ w + linear @ w,
            np.full(len(matrix), 1 / len(matrix)),
            jac=lambda w: matrix @ w + linear,
            bounds=[(0, 1)] * len(matrix),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        weights = simplex_qp(matrix, linear)
        assert 0.5 * weights @ matrix @ weights + linear @ weights <= found.fun + 1e-10
        assert weights == pytest.approx(found.x, abs=1e-5)

    @pytest.mark.parametrize("seed", range(40))
    def test_without_a_linear_term_it_is_the_point_of_least_norm(self, seed):
        matrix = gramian(draw(seed, kinds=MILD, full_rank=True))
        assert simplex_qp(matrix, np.zeros(len(matrix))) == pytest.approx(min_norm_point(matrix), abs=1e-9)

    @pytest.mark.parametrize("size", [2, 5, 30])
    def test_a_large_linear_term_decides_alone(self, size):
        matrix = gramian(large(0, size))
        for factor in (1e10, 1e100, 1e300):
            linear = np.random.default_rng(1).permutation(size) / size * factor
            weights = simplex_qp(matrix, linear)
            assert weights[linear.argmin()] == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("size", [2, 5])
    def test_a_constant_changes_nothing(self, size):
        matrix = gramian(large(0, size))
        linear = matrix.mean(axis=1)
        assert simplex_qp(matrix, linear) == pytest.approx(simplex_qp(matrix, linear + 1000), abs=1e-9)

    def test_the_least_share_alike_where_there_is_no_curvature(self):
        assert simplex_qp(np.zeros((4, 4)), [3.0, 1e-3, 1e-3, 1.0]) == pytest.approx([0, 0.5, 0.5, 0], abs=1e-9)
        assert simplex_qp(np.zeros((2, 2)), [1.0, 1.0]).tolist() == [0.5, 0.5]
        assert simplex_qp(np.zeros((3, 3)), [-2.0] * 3) == pytest.approx([1 / 3] * 3)

    @pytest.mark.parametrize("limit", [0, 1, 3])
    def test_the_limit_leaves_a_point_of_the_simplex(self, limit):
        for seed in range(30):
            matrix = gramian(draw(seed))
            assert_in_simplex(simplex_qp(matrix, self.slope(seed, matrix), limit=limit), len(matrix))

    def test_extremes_do_not_overflow(self):
        matrix = np.full((3, 3), 1.7e308)
        assert_in_simplex(simplex_qp(matrix, [1.7e308, -1.7e308, 0.0]), 3)
        assert_in_simplex(simplex_qp(matrix[:2, :2] * [[1, -1], [-1, 1]], [-1.7e308, 1.7e308]), 2)

    def test_wants_a_linear_term_that_fits(self):
        with pytest.raises(ValueError, match=r"linear must have the shape \[2\].*received \(3,\)"):
            simplex_qp(np.eye(2), np.ones(3))
        with pytest.raises(ValueError, match="linear holds NaN"):
            simplex_qp(np.eye(2), [1.0, math.inf])


class TestDualCone:
    @staticmethod
    def assert_kkt(matrix, references, v):
        assert v.shape == references.shape
        assert np.isfinite(v).all()
        assert (v >= references).all()
        norms = np.sqrt(matrix.diagonal())
        scale = (norms * np.abs(references)).max(axis=1) + (norms * (v - references)).sum(axis=1)
        slack, allowed = v @ matrix, 1e-9 * norms * scale[:, None]
        assert (slack >= -allowed).all()
        assert (np.abs(slack) <= allowed)[v > references].all()

    @staticmethod
    def references(seed, size):
        generator = np.random.default_rng(seed)
        if seed % 3 == 0:
            return np.eye(size)
        return np.full((1, size), 1 / size) if seed % 3 == 1 else generator.normal(size=(4, size))

    @pytest.mark.parametrize("seed", range(0, 400, 40))
    def test_the_conditions_hold(self, seed):
        for each in range(seed, seed + 40):
            matrix = gramian(draw(each))
            references = self.references(each // len(KINDS), len(matrix))
            self.assert_kkt(matrix, references, dual_cone(matrix, references))

    @pytest.mark.parametrize(("size", "parameters"), [(39, 2000), (60, 300), (139, 2000), (139, 150), (200, 20)])
    def test_the_conditions_hold_of_many(self, size, parameters):
        matrix = gramian(large(size, size, parameters))
        self.assert_kkt(matrix, np.eye(size), dual_cone(matrix, np.eye(size)))

    @pytest.mark.parametrize("size", [6, 45])
    def test_the_conditions_hold_where_the_cone_is_a_point(self, size):
        matrix = gramian(large(size, size, parameters=size // 3))  # the gradients point everywhere
        self.assert_kkt(matrix, np.eye(size), dual_cone(matrix, np.eye(size)))

    @settings(max_examples=100, deadline=None)
    @given(seeds)
    def test_is_the_solution_of_nonnegative_least_squares(self, seed):
        gradients = draw(seed, kinds=["plain", "shared"], sizes=[2, 3, 5, 9], full_rank=True)
        references = self.references(seed, len(gradients))
        for u, v in zip(references, dual_cone(gramian(gradients), references), strict=True):
            x, _ = scipy.optimize.nnls(gradients.T, -gradients.T @ u)
            assert v == pytest.approx(u + x, abs=1e-8)

    @pytest.mark.parametrize("seed", range(20))
    def test_of_dependent_gradients_the_projection_is_the_same(self, seed):
        gradients = draw(seed, kinds=["plain", "duplicated", "opposite", "collinear"], sizes=[4, 8])
        u = np.full(len(gradients), 1 / len(gradients))
        (v,) = dual_cone(gramian(gradients), [u])
        x, _ = scipy.optimize.nnls(gradients.T, -gradients.T @ u)
        scale = np.linalg.norm(gradients, axis=1).max()
        assert gradients.T @ v / scale == pytest.approx(gradients.T @ (u + x) / scale, abs=1e-6)

    @settings(max_examples=100, deadline=None)
    @given(seeds)
    def test_of_two_is_the_closed_form(self, seed):
        matrix = gramian(draw(seed, kinds=MILD, sizes=[2], full_rank=True))
        (a, b), (_, c) = matrix
        expected = [[1, max(0, -b / c)], [max(0, -b / a), 1]]
        assert dual_cone(matrix, np.eye(2)) == pytest.approx(np.array(expected), rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("seed", range(5))
    def test_few_and_many_tasks_are_solved_alike(self, seed):
        few = gramian(large(seed, 30, shared=-0.3))
        many = np.eye(50)
        many[:30, :30] = few  # twenty more, orthogonal to these: beyond the size at which systems are solved directly
        assert dual_cone(many, np.eye(50)[:30])[:, :30] == pytest.approx(dual_cone(few, np.eye(30)), abs=1e-8)

    @pytest.mark.parametrize("size", [3, 10, 60])
    def test_scaling_a_gradient_scales_the_multipliers(self, size):
        matrix = gramian(large(0, size, 500))
        scales = 10 ** np.random.default_rng(0).uniform(-20, 20, size=size)
        scaled = dual_cone(matrix * scales * scales[:, None], np.eye(size))
        assert scaled * scales / scales[:, None] == pytest.approx(dual_cone(matrix, np.eye(size)), abs=1e-8)

    def test_gradients_that_agree_are_left_alone(self):
        matrix = gramian(np.abs(large(0, 20)))
        assert dual_cone(matrix, np.eye(20)).tolist() == np.eye(20).tolist()

    def test_a_zero_gradient_constrains_nothing(self):
        matrix = np.array([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
        expected = [[1, 0, 0.5], [0, 1, 0], [1, 0, 1]]
        assert dual_cone(matrix, np.eye(3)) == pytest.approx(np.array(expected), abs=1e-12)
        assert dual_cone(np.zeros((2, 2)), [[1.0, -2.0]]).tolist() == [[1.0, -2.0]]

    def test_opposites_project_on_nothing(self):
        v = dual_cone([[1.0, -10.0], [-10.0, 100.0]], np.eye(2))
        assert v == pytest.approx(np.array([[1, 0.1], [10, 1]]), abs=1e-10)

    def test_of_one_it_is_no_less_than_nothing(self):
        assert dual_cone([[2.0]], [[3.0], [-3.0]]) == pytest.approx(np.array([[3.0], [0.0]]), abs=1e-12)

    def test_no_references_no_rows(self):
        assert dual_cone(np.eye(3), np.zeros((0, 3))).shape == (0, 3)

    @pytest.mark.parametrize("shape", [(3,), (2, 2), (1, 3, 1)])
    def test_wants_references_that_fit(self, shape):
        with pytest.raises(ValueError, match=r"references must have the shape \[R, 3\]"):
            dual_cone(np.eye(3), np.zeros(shape))


class TestCAGradWeights:
    @staticmethod
    def objective(matrix, c, weights):
        centre = np.full(len(matrix), 1 / len(matrix))
        reach = c * math.sqrt(max(centre @ matrix @ centre, 0))
        # Rounding may leave w'Mw below 0.
        norms = np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", weights, matrix, weights), 0))
        return weights @ matrix @ centre + reach * norms

    @staticmethod
    def assert_no_vertex_is_better(matrix, c, weights):
        assert_in_simplex(weights, len(matrix))
        top = matrix.diagonal().max()
        square, slopes = weights @ matrix @ weights, matrix.mean(axis=1)
        reach = c * math.sqrt(max(slopes.mean(), 0))
        if square > 1e-12 * top:  # else g_w is 0 as far as can be known, and has no direction
            slopes = slopes + reach * matrix @ weights / math.sqrt(square)
            gap = weights @ slopes - slopes.min()
            assert gap <= 1e-8 * (np.abs(matrix.mean(axis=1)).max() + reach * math.sqrt(top))

    @pytest.mark.parametrize("seed", range(0, 300, 30))
    @pytest.mark.parametrize("c", [0.4, 1.0])
    def test_no_vertex_is_better(self, seed, c):
        for each in range(seed, seed + 30):
            matrix = gramian(draw(each))
            self.assert_no_vertex_is_better(matrix, c, cagrad_weights(matrix, c))

    @pytest.mark.parametrize("size", [60, 139, 200])
    @pytest.mark.parametrize("c", [0.05, 0.5, 2.0])
    def test_no_vertex_is_better_of_many(self, size, c):
        matrix = gramian(large(size, size, shared=0.2))
        weights = cagrad_weights(matrix, c)
        slopes = matrix.mean(axis=1)
        slopes = slopes + c * math.sqrt(slopes.mean()) * matrix @ weights / math.sqrt(weights @ matrix @ weights)
        assert weights @ slopes - slopes.min() <= 1e-9 * np.abs(slopes).max()

    @pytest.mark.parametrize("seed", range(100))
    def test_no_point_of_a_grid_is_better(self, seed):
        matrix = gramian(draw(seed, sizes=[2, 3]))
        matrix /= matrix.diagonal().max() or 1.0
        c = (0.01, 0.4, 1.0, 3.0)[seed % 4]
        points = grid(len(matrix), 2000 if len(matrix) == 2 else 60)
        least = self.objective(matrix, c, points).min()
        assert self.objective(matrix, c, cagrad_weights(matrix, c)) <= least + 1e-7 * (1 + c)

    @pytest.mark.parametrize("seed", range(20))
    def test_agrees_with_slsqp(self, seed):
        matrix = gramian(draw(seed, kinds=["plain", "shared"], sizes=[3, 4, 6], full_rank=True))
        matrix /= matrix.diagonal().max()
        found = scipy.optimize.minimize(
            lambda w: self.objective(matrix, 0.5, w),
            np.full(len(matrix), 1 / len(matrix)),
            bounds=[(0, 1)] * len(matrix),
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        )
        weights = cagrad_weights(matrix, 0.5)
        assert self.objective(matrix, 0.5, weights) <= found.fun + 1e-10
        assert weights == pytest.approx(found.x, abs=1e-4)

    @pytest.mark.parametrize("size", [2, 6])
    def test_c_of_0_leaves_the_vertex_that_the_mean_serves_worst(self, size):
        matrix = gramian(large(0, size))
        expected = np.eye(size)[matrix.mean(axis=1).argmin()]
        assert cagrad_weights(matrix, 0.0) == pytest.approx(expected, abs=1e-9)
        assert cagrad_weights(matrix, 1e-200) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("size", [2, 6])
    def test_a_large_c_leaves_the_point_of_least_norm(self, size):
        matrix = gramian(large(1, size, shared=0.5))
        for c in (1e9, 1e200):
            assert cagrad_weights(matrix, c) == pytest.approx(min_norm_point(matrix), abs=1e-6)

    def test_the_centre_where_the_mean_is_0(self):
        assert cagrad_weights([[1.0, -1.0], [-1.0, 1.0]], 0.5).tolist() == [0.5, 0.5]
        triangle = gramian(np.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]))
        assert cagrad_weights(triangle, 0.5) == pytest.approx([1 / 3] * 3)
        assert cagrad_weights(np.zeros((3, 3)), 0.5) == pytest.approx([1 / 3] * 3)

    @pytest.mark.parametrize("gradients", [[[1.0], [-3.0]], [[1.0], [-3.0], [-1.0]], [[1.0, 0], [-3.0, 0], [0, 1.0]]])
    def test_nothing_is_less_than_0_where_gradients_cancel_and_c_is_1(self, gradients):
        matrix = gramian(np.array(gradients))
        assert self.objective(matrix, 1.0, cagrad_weights(matrix, 1.0)) <= 1e-7

    def test_of_one(self):
        assert cagrad_weights([[3.0]], 0.5).tolist() == [1.0]

    @pytest.mark.parametrize("c", [-0.1, math.inf, math.nan])
    def test_wants_a_c(self, c):
        with pytest.raises(ValueError, match="c is a finite number"):
            cagrad_weights(np.eye(2), c)


class TestNashWeights:
    @staticmethod
    def assert_solved_or_said(gradients, alpha, solution):
        matrix, (weights, converged) = gramian(gradients), solution
        assert (weights > 0).all()
        assert np.isfinite(weights).all()
        if converged:
            product, expected = matrix @ weights, weights ** (-1 / alpha)
            assert (np.abs(product - expected) <= 1e-9 * (expected + np.abs(matrix) @ weights)).all()
            assert product == pytest.approx(expected, rel=1e-5)
        # With w >= 0 and Gw = 0 there is no solution, for 0 = w'Ma = w'a^(-1/alpha) > 0; else there is.
        units = gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-300)
        least = min_norm_point(gramian(units))
        distance = math.sqrt(max(least @ gramian(units) @ least, 0))
        if distance > 1e-3:
            assert converged
        if distance < 1e-8:
            assert not converged

    @pytest.mark.parametrize("seed", range(0, 300, 30))
    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_solves_the_equations_or_says_that_it_does_not(self, seed, alpha):
        for each in range(seed, seed + 30):
            gradients = draw(each, kinds=[kind for kind in KINDS if kind != "far apart"])
            self.assert_solved_or_said(gradients, alpha, nash_weights(gramian(gradients), alpha))

    @pytest.mark.parametrize("size", [60, 139, 200])
    @pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
    def test_solves_the_equations_of_many(self, size, alpha):
        matrix = gramian(large(size, size))
        weights, converged = nash_weights(matrix, alpha)
        assert converged
        assert matrix @ weights == pytest.approx(weights ** (-1 / alpha), rel=1e-8)

    @settings(max_examples=200, deadline=None)
    @given(seeds)
    def test_of_two_is_the_closed_form(self, seed):
        first, second = gradients = draw(seed, kinds=MILD, sizes=[2], full_rank=True)
        norms = np.linalg.norm(gradients, axis=1)
        cosine = (first / norms[0]) @ (second / norms[1])
        weights, converged = nash_weights(gramian(gradients))
        assert converged
        assert weights == pytest.approx(1 / (norms * math.sqrt(1 + cosine)), rel=1e-9)

    def test_newton_finds_the_closed_form_too(self):
        matrix = gramian(large(0, 2))
        weights, _ = nash_weights(matrix, 1 + 1e-12)
        assert weights == pytest.approx(nash_weights(matrix).weights, rel=1e-9)

    @pytest.mark.parametrize("seed", range(30))
    @pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
    def test_agrees_with_a_root_finder(self, seed, alpha):
        matrix = gramian(draw(seed, kinds=["plain", "shared"], sizes=[2, 3, 5], full_rank=True))
        weights, converged = nash_weights(matrix, alpha)
        assert converged
        start = matrix.diagonal() ** (-alpha / (1 + alpha))
        found = scipy.optimize.root(
            lambda z: np.log(np.maximum(matrix @ np.exp(z), 1e-12)) + z / alpha, np.log(start), tol=1e-12
        )
        if found.success:
            assert weights == pytest.approx(np.exp(found.x), rel=1e-6)

    @pytest.mark.parametrize("size", [2, 7, 30])
    def test_the_update_has_the_norm_that_the_paper_gives(self, size):
        matrix = gramian(large(0, size))
        weights, _ = nash_weights(matrix)
        assert weights @ matrix @ weights == pytest.approx(size, rel=1e-9)

    @pytest.mark.parametrize("size", [2, 7, 30])
    def test_scaling_a_gradient_scales_its_weight(self, size):
        matrix = gramian(large(0, size))
        scales = 10 ** np.random.default_rng(0).uniform(-30, 30, size=size)
        scaled, converged = nash_weights(matrix * scales * scales[:, None])
        assert converged
        assert scaled * scales == pytest.approx(nash_weights(matrix).weights, rel=1e-8)

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_scaling_all_gradients_scales_all_weights(self, alpha):
        matrix = gramian(large(0, 6))
        scaled, _ = nash_weights(1e40 * matrix, alpha)
        expected = nash_weights(matrix, alpha).weights * 1e40 ** (-alpha / (1 + alpha))
        assert scaled == pytest.approx(expected, rel=1e-8)

    def test_a_large_alpha_equalises_the_gains(self):
        matrix = gramian(np.abs(large(0, 5)))
        weights, converged = nash_weights(np.eye(5) + 0.01 * matrix / matrix.max(), 1e4)
        gains = (np.eye(5) + 0.01 * matrix / matrix.max()) @ weights
        assert converged
        assert gains == pytest.approx(np.full(5, gains[0]), rel=1e-3)

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    @pytest.mark.parametrize(
        "gradients",
        [[[1.0], [-1.0]], [[1.0], [-100.0]], [[1.0, 0], [-1.0, 0], [0, 1.0]], [[1.0, 0], [-1.0, 1.0], [0.0, -1.0]]],
    )
    def test_gradients_that_cancel_have_no_solution(self, gradients, alpha):
        weights, converged = nash_weights(gramian(np.array(gradients)), alpha)
        assert not converged
        assert (weights > 0).all()
        assert (weights < 1e8).all()

    def test_a_zero_gradient_has_no_solution_and_leaves_the_others_theirs(self):
        weights, converged = nash_weights(np.diag([4.0, 0.0, 16.0]))
        assert not converged
        assert weights == pytest.approx([0.5, 0.375, 0.25])
        assert nash_weights(np.zeros((2, 2))).weights.tolist() == [1.0, 1.0]

    def test_duplicates_get_equal_weights(self):
        weights, converged = nash_weights(4 * np.ones((9, 9)))
        assert converged
        assert weights == pytest.approx(np.full(9, 1 / 6))

    @pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
    def test_of_one(self, alpha):
        weights, converged = nash_weights([[9.0]], alpha)
        assert converged
        assert 9 * weights == pytest.approx(weights ** (-1 / alpha))

    @pytest.mark.parametrize("limit", [0, 1, 2])
    def test_the_limit_counts(self, limit):
        weights, converged = nash_weights(gramian(large(0, 20)), 2.0, limit=limit)
        assert not converged
        assert (weights > 0).all()
        assert np.isfinite(weights).all()

    @pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
    def test_wants_an_alpha(self, alpha):
        with pytest.raises(ValueError, match="alpha is a finite number"):
            nash_weights(np.eye(2), alpha)


SOLVERS = {
    "mgda": min_norm_point,
    "sdmgrad": lambda matrix: simplex_qp(matrix, np.asarray(matrix) @ np.full(len(matrix), 0.3 / len(matrix))),
    "upgrad": lambda matrix: dual_cone(matrix, np.eye(len(matrix))),
    "dualproj": lambda matrix: dual_cone(matrix, np.full((1, len(matrix)), 1 / len(matrix))),
    "cagrad": lambda matrix: cagrad_weights(matrix, 0.5),
    "nash-mtl": lambda matrix: nash_weights(matrix).weights,
    "fairgrad": lambda matrix: nash_weights(matrix, 2.0).weights,
}


@pytest.mark.parametrize("solve", SOLVERS.values(), ids=SOLVERS)
class TestAllOfThem:
    @settings(max_examples=150, deadline=None)
    @given(seed=seeds)
    def test_finite_and_the_same_twice_and_nothing_is_changed(self, solve, seed):
        matrix = gramian(draw(seed))
        before = matrix.copy()
        first = solve(matrix)
        assert np.isfinite(first).all()
        assert solve(matrix).tobytes() == first.tobytes()
        assert matrix.tobytes() == before.tobytes()

    @pytest.mark.parametrize("size", [2, 3, 5, 20])
    @pytest.mark.parametrize("seed", range(5))
    def test_permuting_the_tasks_permutes_the_weights(self, solve, size, seed):
        matrix = gramian(large(seed, size))
        order = np.random.default_rng(seed).permutation(size)
        plain, permuted = solve(matrix), solve(matrix[np.ix_(order, order)])
        if plain.ndim == 1:
            expected = plain[order]
        else:
            expected = plain[:, order] if len(plain) == 1 else plain[np.ix_(order, order)]
        assert permuted == pytest.approx(expected, rel=1e-8, abs=1e-8 * np.abs(plain).max())

    @pytest.mark.parametrize("size", [2, 3, 20])
    @pytest.mark.parametrize("factor", [2.0**-200, 1e-60, 3.0, 1e60])
    def test_a_factor_on_all_gradients_changes_no_proportion(self, solve, size, factor):
        matrix = gramian(large(0, size))
        plain, scaled = solve(matrix), solve(factor * matrix)
        assert scaled / scaled.max() == pytest.approx(plain / plain.max(), rel=1e-8, abs=1e-9)

    @pytest.mark.parametrize("size", [1, 2, 3, 40, 60])
    @pytest.mark.parametrize(
        "matrix",
        [np.zeros, np.ones, lambda shape: np.eye(shape[0]), lambda shape: np.full(shape, 1e308)],
        ids=["zero", "equal", "orthogonal", "largest"],
    )
    def test_finite_on_plain_extremes(self, solve, size, matrix):
        assert np.isfinite(solve(matrix((size, size)))).all()

    @pytest.mark.parametrize("seed", range(20))
    def test_finite_on_what_single_precision_leaves(self, solve, seed):
        gradients = draw(seed, kinds=["plain", "duplicated", "opposite", "collinear"]).astype(np.float32)
        assert np.isfinite(solve(gramian(gradients))).all()  # may have eigenvalues of -1e-7

    def test_takes_lists_and_symmetrises(self, solve):
        lopsided = [[1.0, -0.25, 0.5], [-0.5, 2.0, 0.25], [0.75, 0.0, 1.5]]  # the rows have the sums that M's have
        matrix = np.array([[1.0, -0.375, 0.625], [-0.375, 2.0, 0.125], [0.625, 0.125, 1.5]])
        assert solve(lopsided) == pytest.approx(solve(matrix), abs=1e-12)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_wants_a_finite_matrix(self, solve, value):
        with pytest.raises(ValueError, match="Gram matrix holds NaN or infinite"):
            solve(np.array([[1.0, value], [value, 1.0]]))


@pytest.mark.parametrize("shape", [(0, 0), (2, 3), (2,), (2, 2, 2)])
def test_they_want_a_square_matrix(shape):
    matrix = np.zeros(shape)
    solvers = (min_norm_point, nash_weights)
    more = (lambda m: simplex_qp(m, [0.0]), lambda m: dual_cone(m, [[0.0]]), lambda m: cagrad_weights(m, 0.5))
    for solve in (*solvers, *more):
        with pytest.raises(ValueError, match="Gram matrix is square"):
            solve(matrix)


def check_min_norm_point(gradients, seed):
    matrix = gramian(gradients)
    weights = min_norm_point(matrix)
    assert_in_simplex(weights, len(matrix))
    gap, terms = gaps(matrix, 0, weights)
    assert (gap <= 1e-9 * terms).all()


def check_simplex_qp(gradients, seed):
    matrix = gramian(gradients)
    linear = TestSimplexQP.slope(seed, matrix)
    weights = simplex_qp(matrix, linear)
    assert_in_simplex(weights, len(matrix))
    gap, _ = gaps(matrix, linear, weights)
    assert gap.max() <= 1e-9 * (matrix.diagonal().max() + np.ptp(linear))


def check_dual_cone(gradients, seed):
    matrix = gramian(gradients)
    references = TestDualCone.references(seed, len(matrix))
    TestDualCone.assert_kkt(matrix, references, dual_cone(matrix, references))


def check_cagrad_weights(gradients, seed):
    matrix, c = gramian(gradients), (0.1, 0.4, 1.0)[seed % 3]
    TestCAGradWeights.assert_no_vertex_is_better(matrix, c, cagrad_weights(matrix, c))


def check_nash_weights(gradients, seed):
    alpha = (0.5, 1.0, 2.0)[seed % 3]
    TestNashWeights.assert_solved_or_said(gradients, alpha, nash_weights(gramian(gradients), alpha))


@pytest.mark.parametrize("examples", [40, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "check", [check_min_norm_point, check_simplex_qp, check_dual_cone, check_cagrad_weights, check_nash_weights]
)
def test_the_conditions_of_a_solution_hold_for_any_number_of_tasks(check, examples):
    # Where norms are sixty orders of magnitude apart, Nash's equations may have a solution that no float64 holds.
    kinds = [kind for kind in KINDS if kind != "far apart" or check is not check_nash_weights]

    @settings(max_examples=examples, deadline=None)
    @given(seed=seeds, n_tasks=st.integers(1, 200))
    def run(seed, n_tasks):
        check(draw(seed, kinds=kinds, sizes=[n_tasks]), seed)

    run()
