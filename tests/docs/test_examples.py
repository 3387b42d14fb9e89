"""The toy experiments of examples/ are those of the papers, and what they claim holds in a few steps of them."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import scipy.stats
import torch

from mtlkit.strategies import Fixed, GradNorm, Uncertainty

ROOT = Path(__file__).resolve().parents[2]


def load(folder, name):
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plane, toy = load("examples", "two_objectives"), load("examples", "gradnorm_toy")
drawing = load("docs", "two_objectives")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute on one thread: there is nothing here to share among several, and waiting for one another takes long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def printed(module, monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|-")]


def formula(x1, x2):
    """The objectives as the paper writes them."""
    c1, c2 = max(math.tanh(x2 / 2), 0), max(math.tanh(-x2 / 2), 0)
    valley1 = math.log(max(abs(0.5 * (-x1 - 7) - math.tanh(-x2)), 5e-6)) + 6
    valley2 = math.log(max(abs(0.5 * (3 - x1) + math.tanh(-x2) + 2), 5e-6)) + 6
    bowl1 = ((7 - x1) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    bowl2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    return [c1 * valley1 + c2 * bowl1, c1 * valley2 + c2 * bowl2]


def test_the_objectives_are_those_of_the_paper():
    for place in np.random.default_rng(0).uniform(-10, 10, size=(200, 2)):
        found = [value.item() for value in plane.objectives(torch.from_numpy(place))]
        assert found == pytest.approx(formula(*place), rel=1e-12), place


def test_in_the_middle_of_the_pareto_set_both_are_alike():
    middle = torch.tensor([0.0, -8.3551], dtype=torch.float64)
    assert [value.item() for value in plane.objectives(middle)] == pytest.approx([-15.092, -15.092], abs=5e-4)


@pytest.mark.parametrize(
    ("place", "length"),
    [
        ((0.0, -8.3551), 0.0),  # in the middle of the Pareto set
        ((3.5, -8.3760), 0.0),  # where a quarter of the second objective's gradient makes up for the first's
        ((-6.9999, -8.4345), 0.0),  # near its end
        ((0.0, -8.0), 0.0101),  # above it: both slopes in x2 are 0.5 sech(4)^2 (4.9 - 20)
        ((-9.0, -8.4), 0.4),  # beyond its end, where f2 rises by 2 (x1 + 7) / 10 and f1 by more
    ],
)
def test_the_shortest_combination_is_0_on_the_pareto_set_alone(place, length):
    assert plane.shortest(torch.tensor(place, dtype=torch.float64)) == pytest.approx(length, abs=5e-4)


@pytest.mark.parametrize("start", plane.STARTS)
@pytest.mark.parametrize("name", plane.STRATEGIES)
def test_every_strategy_sets_out_downhill(name, start):
    path = plane.descend(name, start, 40, every=10)
    assert path.shape == (5, 2)
    assert path[0].tolist() == list(start)
    means = [sum(formula(*place)) / 2 for place in path.tolist()]
    assert means == sorted(means, reverse=True)
    assert means[-1] < means[0] - 0.005


def test_the_table_of_the_plane_has_a_row_for_each_start(monkeypatch, capsys):
    head, *rows = printed(plane, monkeypatch, capsys, "--steps", "2", "--strategy", "cagrad")
    assert head == ["strategy", "start", "end", "f1", "f2", "shortest"]
    assert [row[:2] for row in rows] == [["cagrad", str(start)] for start in plane.STARTS]
    assert rows[2][2] == "(8.998, 8.998)"  # two steps of Adam, of the learning rate each


@pytest.mark.slow
@pytest.mark.parametrize("start", plane.STARTS)
def test_cagrad_ends_in_the_middle_of_the_pareto_set(start):
    end = plane.descend("cagrad", start, 100_000)[-1]
    assert torch.linalg.vector_norm(end - torch.tensor([0.0, -8.355])) < 0.01


class TestGradNormToy:
    def test_the_tasks_differ_in_their_scale_and_a_little_in_their_map(self):
        tasks = toy.Toy(2, seed=0)
        assert tasks.scales == [1.0, 100.0]
        first, second = tasks.maps
        assert first.shape == (100, 250)
        assert first.std().item() == pytest.approx(math.hypot(10, 3.5), rel=0.02)
        assert (first - second).std().item() == pytest.approx(3.5 * math.sqrt(2), rel=0.02)
        x, targets = tasks.rows(7)
        for scale, each, target in zip(tasks.scales, tasks.maps, targets, strict=True):
            assert target.numpy() == pytest.approx(scale * np.tanh(x.numpy() @ each.numpy().T), rel=1e-4, abs=1e-4)

    def test_ten_tasks_have_scales_from_a_wide_normal_distribution(self):
        scales = np.array([toy.Toy(10, seed).scales for seed in range(40)])
        assert (scales > 0).all()
        assert np.sqrt((scales**2).mean()) == pytest.approx(50, rel=0.15)

    def test_all_strategies_have_the_same_data_and_the_same_beginning(self):
        for strategy in (GradNorm(2), Fixed(2), Uncertainty(2, ["regression"] * 2)):
            assert toy.relative_loss(2, 0, strategy, 0) == pytest.approx(2, rel=1e-6)

    def test_gradnorm_raises_the_weight_of_the_task_of_the_small_scale(self):
        strategy = GradNorm(2, alpha=0.12)
        toy.relative_loss(2, 0, strategy, 100)
        small, large = strategy.task_weights
        assert small > 1.5
        assert large < 0.5

    @pytest.mark.parametrize("values", [[1.0, 2.0], [7.5, 8.25, 6.0], [3.0, 1.0, 4.0, 1.0, 5.0]])
    def test_an_interval_is_that_of_students_distribution(self, values):
        mean, half = map(float, toy.interval(values, 4).split(" ± "))
        assert mean == pytest.approx(np.mean(values), abs=1e-4)
        expected = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
        assert half == pytest.approx(expected, rel=5e-4, abs=1e-4)

    def test_one_value_has_no_interval(self):
        assert toy.interval([2.5], 2) == "2.50"

    def test_the_table_says_how_much_more_than_with_equal_weights(self, monkeypatch, capsys):
        made = {"Fixed": [8.0, 7.0], "GradNorm": [7.5, 6.0], "Uncertainty": [8.25, 7.5]}
        monkeypatch.setattr(toy, "relative_loss", lambda _, seed, strategy, __: made[type(strategy).__name__][seed])
        head, *rows = printed(toy, monkeypatch, capsys, "--seeds", "2")
        assert head == ["strategy", "sum of relative test losses, K = 10", "more than equal", "seeds"]
        assert [(row[0], row[2], row[3]) for row in rows] == [
            ("equal", "", "8.000, 7.000"),
            ("gradnorm", toy.interval([-0.5, -1.0], 2), "7.500, 6.000"),
            ("uncertainty", toy.interval([0.25, 0.5], 2), "8.250, 7.500"),
        ]

    def test_a_run_makes_such_a_table(self, monkeypatch, capsys):
        _, *rows = printed(toy, monkeypatch, capsys, "--tasks", "2", "--seeds", "1", "--steps", "3")
        assert [0 < float(row[1]) < 3 for row in rows] == [True] * 3

    def test_the_quantiles_are_those_of_students_distribution(self):
        for seeds, quantile in toy.T_975.items():
            assert quantile == pytest.approx(scipy.stats.t.ppf(0.975, seeds - 1), abs=5e-4)


def test_the_picture_has_a_panel_with_the_paths_of_each_strategy():
    assert set(drawing.SHOWN) <= set(drawing.example().STRATEGIES)
    path = [(0.0, 0.0), (11.0, -11.0)]  # from the middle to the lower right corner
    drawn = drawing.picture({"one": [path] * 3, "two & three": [path] * 3})
    root = ET.fromstring(drawn)  # noqa: S314 - of our own making
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert [text.text for text in root.iterfind(".//svg:text", space)] == ["one", "two & three"]
    lines = [line.get("points") for line in root.iterfind(".//svg:polyline", space)]
    assert len(lines) == 2 * (1 + 3)
    assert lines.count("110,110 220,220") == 6
    assert len(lines[0].split()) == 15  # the Pareto set


def test_the_set_that_the_picture_shows_is_the_pareto_set():
    for place in drawing.PARETO:
        assert plane.shortest(torch.tensor(place, dtype=torch.float64)) < 1e-3
