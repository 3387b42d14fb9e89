"""The strategies are TorchJD's, all of them: with its options, its answers and its memory, for the tasks present."""

import importlib.util
import inspect
import json
import re
import subprocess
import sys

import pytest
import torch
import torchjd._mixins
from torchjd import aggregation, autojac

import mtlkit
import mtlkit_torchjd
from mtlkit.errors import PluginError
from mtlkit_torchjd.cr_mogm import _CLASSES, CRMOGM

PLUGINS = {name: each for name, each in vars(mtlkit_torchjd).items() if hasattr(each, "component")}
STRATEGIES = {each.component.__name__: each.component for each in PLUGINS.values()}
BASES = {"Aggregator", "GramianWeightedAggregator", "WeightedAggregator", "Weighting"}
# What TorchJD takes and a configuration does not give: a function, and what is given in another way.
LEFT_OUT = {"GradDrop": {"f"}, "NashMTL": {"n_tasks"}, "UPGrad": {"projector"}, "DualProj": {"projector"}}
WITHOUT_DEFAULT = {"Constant", "Krum", "TrimmedMean", "CAGrad", "FairGrad", "CRMOGM"}
needs_ecos = pytest.mark.skipif(importlib.util.find_spec("ecos") is None, reason="ecos has no wheel for this Python")
WEIGHTS = [0.5, 2.0, 1.0, 3.0]

# For each class, its options, and TorchJD's own for four tasks.
OWN = {
    "AlignedMTL": ({"scale_mode": "rmse"}, lambda: aggregation.AlignedMTL(scale_mode="rmse")),
    "CAGrad": ({"c": 0.4}, lambda: aggregation.CAGrad(0.4)),
    "ConFIG": ({"pref_vector": WEIGHTS}, lambda: aggregation.ConFIG(tensor(WEIGHTS))),
    "Constant": ({"weights": WEIGHTS}, lambda: aggregation.Constant(tensor(WEIGHTS))),
    "CRMOGM": (
        {"weighting": "upgrad", "alpha": 0.8, "initial_weights": WEIGHTS},
        lambda: aggregation.GramianWeightedAggregator(
            aggregation.CRMOGMWeighting(aggregation.UPGradWeighting(), 0.8, tensor(WEIGHTS))
        ),
    ),
    "DualProj": (
        {"pref_vector": WEIGHTS, "reg_eps": 0.01},
        lambda: aggregation.DualProj(tensor(WEIGHTS), torchjd.linalg.QuadprogProjector(reg_eps=0.01)),
    ),
    "ExcessMTL": ({"robust_step_size": 0.1}, lambda: aggregation.ExcessMTL(0.1)),
    "FairGrad": ({"alpha": 0.7, "max_iters": 9}, lambda: aggregation.FairGrad(0.7, 9)),
    "GradDrop": ({"leak": [0.1, 0.2, 0.3, 0.4], "seed": 7}, lambda: aggregation.GradDrop(leak=tensor(WEIGHTS) * 0)),
    "GradVac": ({"beta": 0.2, "seed": 7}, lambda: aggregation.GradVac(0.2)),
    "IMTLG": ({}, aggregation.IMTLG),
    "Krum": ({"n_byzantine": 1, "n_selected": 2}, lambda: aggregation.Krum(1, 2)),
    "Mean": ({}, aggregation.Mean),
    "MGDA": ({"epsilon": 0.1, "max_iters": 3}, lambda: aggregation.MGDA(0.1, 3)),
    "MoDo": (
        {"gamma": 0.01, "rho": 0.2},
        lambda: aggregation.GramianWeightedAggregator(aggregation.MoDoWeighting(0.01, 0.2)),
    ),
    "NashMTL": ({"max_norm": 2.0, "update_weights_every": 2}, lambda: aggregation.NashMTL(4, 2.0, 2)),
    "PCD": ({"tau": [0.3, 0.2, 0.4], "beta": 0.5}, lambda: aggregation.PCD(tensor([0.3, 0.2, 0.4]), 0.5)),
    "PCGrad": ({"seed": 7}, aggregation.PCGrad),
    "Random": ({"seed": 7}, aggregation.Random),
    "SDMGrad": (
        {"lr": 0.5, "momentum": 0.1, "n_iter": 3, "lambda_": 0.2, "pref_vector": WEIGHTS},
        lambda: aggregation.GramianWeightedAggregator(aggregation.SDMGradWeighting(0.5, 0.1, 3, 0.2, tensor(WEIGHTS))),
    ),
    "Sum": ({}, aggregation.Sum),
    "TrimmedMean": ({"trim_number": 1}, lambda: aggregation.TrimmedMean(1)),
    "UPGrad": ({"pref_vector": WEIGHTS}, lambda: aggregation.UPGrad(tensor(WEIGHTS))),
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def jacobian(n_tasks=4, seed=0):
    return torch.randn(n_tasks, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ask(strategy, given, tasks=None):
    """Return what a strategy answers for gradients ``[K, P]`` of the tasks that are named."""
    losses = torch.ones(len(given), dtype=torch.float64)
    present = None if tasks is None else torch.tensor(tasks)
    if strategy.needs is mtlkit.Needs.JACOBIAN:
        return strategy.combine(losses, given.clone(), present)
    gramian = None if strategy.needs is mtlkit.Needs.LOSSES else given @ given.T
    return strategy.weights(losses, gramian, present)


def weights(strategy, given, tasks=None):
    return ask(strategy, given, tasks).weights


def direction(strategy, given, tasks=None):
    answer = ask(strategy, given, tasks)
    return answer.weights @ given if answer.direction is None else answer.direction


def solvable(name):
    return pytest.param(name, marks=needs_ecos) if name == "NashMTL" else name


def run(*command):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class TestAllOfThem:
    def test_are_brought(self):
        assert set(STRATEGIES) == {name.removesuffix("Weighting") for name in set(aggregation.__all__) - BASES}
        assert set(STRATEGIES) == set(OWN)

    def test_are_listed_without_importing_torchjd(self):
        code = (
            "import sys; from mtlkit.cli import main; main(['list', 'strategies', '--json'], standalone_mode=False); "
            "assert not {'torch', 'torchjd', 'mtlkit_torchjd'} & set(sys.modules)"
        )
        listed = {each["name"]: each for each in json.loads(run("-c", code))}
        for name, plugin in PLUGINS.items():
            record = listed[name.replace("_", "-")]
            assert record["distribution"] == "mtlkit-torchjd"
            assert record["summary"] == inspect.getdoc(plugin.component).partition("\n")[0]

    def test_leave_every_name_of_mtlkit_as_it_was(self):
        registry = mtlkit.Registry.discover()
        own = {record.name for record in registry.records("strategies") if record.distribution == "mtlkit"}
        assert not own & {record.name for record in registry.records("strategies") if record.distribution != "mtlkit"}

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_have_torchjds_options_and_defaults(self, name):
        theirs = inspect.signature(getattr(aggregation, name, None) or getattr(aggregation, f"{name}Weighting"))
        mine = inspect.signature(STRATEGIES[name]).parameters
        for option, parameter in theirs.parameters.items():
            if option in LEFT_OUT.get(name, ()):
                continue
            assert mine[option].kind is inspect.Parameter.KEYWORD_ONLY
            if name not in WITHOUT_DEFAULT:
                assert mine[option].default == parameter.default


class TestTorchJDItself:
    """It answers the same, in its own hands, step by step."""

    @pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP:UserWarning")
    @pytest.mark.parametrize("name", [solvable(name) for name in OWN])
    def test_answers_the_same(self, name):
        options, make = OWN[name]
        strategy, own = STRATEGIES[name](4, **options), make()
        if name == "GradDrop":
            own.leak = tensor(options["leak"])
        steps = 1 if "seed" in options else 4  # after the first step it would draw from where it got to
        for step in range(steps):
            given = jacobian(seed=step)
            torch.manual_seed(7)
            expected = own(given)
            torch.testing.assert_close(direction(strategy, given), expected, rtol=1e-6, atol=1e-9)

    def test_fills_the_same_gradients_in_a_training_loop(self):
        torch.manual_seed(0)
        rows = torch.randn(16, 5)
        encoder = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh())
        heads = [torch.nn.Linear(8, 1) for _ in range(3)]

        def losses(features):
            return [(head(features) - task).square().mean() for task, head in enumerate(heads)]

        features = encoder(rows)
        autojac.mtl_backward(losses(features), features=features)
        autojac.jac_to_grad(encoder.parameters(), aggregation.UPGrad())
        expected = [parameter.grad.clone() for parameter in encoder.parameters()]
        encoder.zero_grad()
        strategy = mtlkit_torchjd.UPGrad(3)
        mtlkit.backward(losses(encoder(rows)), strategy=strategy, shared=encoder)
        for parameter, gradient in zip(encoder.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


class TestTasksThatAreAbsent:
    @pytest.mark.parametrize("name", ["UPGrad", "DualProj", "AlignedMTL", "ConFIG", "SDMGrad"])
    def test_take_their_preferences_with_them(self, name):
        liked = STRATEGIES[name](4, pref_vector=WEIGHTS)
        alone = STRATEGIES[name](2, pref_vector=[WEIGHTS[3], WEIGHTS[1]])
        given = jacobian(2)
        torch.testing.assert_close(direction(liked, given, [3, 1]), direction(alone, given))

    def test_take_their_weights_with_them(self):
        assert weights(mtlkit_torchjd.Constant(4, weights=WEIGHTS), jacobian(2), [3, 1]).tolist() == [3.0, 2.0]

    def test_take_their_leaks_with_them(self):
        given = jacobian(2)
        leaky = mtlkit_torchjd.GradDrop(4, leak=[0.0, 1.0, 0.0, 1.0], seed=1)
        torch.testing.assert_close(direction(leaky, given, [3, 1]), given.sum(0))

    def test_keep_the_cosines_that_they_had(self):
        strategy = mtlkit_torchjd.GradVac(3, seed=0)
        weights(strategy, jacobian(3))
        before = strategy.goals.clone()
        weights(strategy, jacobian(2, seed=1), [0, 2])
        changed = strategy.goals != before
        assert changed[0, 2]
        assert changed[2, 0]
        assert int(changed.sum()) == 2

    @pytest.mark.parametrize("name", ["MoDo", "SDMGrad", "ExcessMTL"])
    def test_keep_their_shares(self, name):
        strategy = STRATEGIES[name](4)
        shares = strategy.shares if name == "ExcessMTL" else strategy.walked
        for step in range(3):
            weights(strategy, jacobian(seed=step))
        before = shares.values.clone()
        answered = weights(strategy, jacobian(2, seed=9), [2, 0])
        assert shares.values[[1, 3]].tolist() == before[[1, 3]].tolist()
        torch.testing.assert_close(shares.values.sum(), tensor(1.0))
        assert answered.sum() == pytest.approx(1)

    def test_resume_the_average_of_their_norms(self):
        strategy = mtlkit_torchjd.PCD(3, beta=0.5)
        weights(strategy, torch.eye(3).double() * 2, None)
        weights(strategy, torch.eye(3)[:2].double() * 6, [0, 2])
        # Steps 1 and 2 have the weights 0.5 / 0.75 and 0.25 / 0.75, bias corrected.
        torch.testing.assert_close(strategy.usual, tensor([36 * 2 / 3 + 4 / 3, 4.0, 36 * 2 / 3 + 4 / 3]))

    def test_begin_when_they_are_seen(self):
        strategy = mtlkit_torchjd.PCD(3, beta=0.5)
        weights(strategy, torch.eye(3)[:2].double() * 2, [0, 1])
        weights(strategy, torch.eye(3).double() * 5)
        assert strategy.usual[2] == pytest.approx(25)

    def test_make_the_next_one_the_primary(self):
        given = tensor([[1.0, 0.0], [-1.0, 0.1]])
        tau = [0.0, 0.0]
        first = weights(mtlkit_torchjd.PCD(3, tau=tau), given, [1, 2])
        torch.testing.assert_close(first, weights(mtlkit_torchjd.PCD(2, tau=tau[:1]), given))
        swapped = weights(mtlkit_torchjd.PCD(3, tau=tau), given.flip(0), [2, 1])
        torch.testing.assert_close(swapped, first.flip(0))

    def test_are_compared_with_their_first_risk(self):
        # Task 1 comes when task 0 is known: its first risk is 1 to itself, as is what task 0 repeats but for the sum of
        # squares, which doubles, so that its risk falls by a root of two.
        strategy = mtlkit_torchjd.ExcessMTL(2, robust_step_size=1.0)
        given = 1e4 * torch.eye(2).double()
        weights(strategy, given[:1], [0])
        answered = weights(strategy, given)
        torch.testing.assert_close(answered, torch.softmax(tensor([0.5**0.5, 1.0]), 0), rtol=1e-6, atol=0)

    def test_smooth_from_their_first_weights(self):
        strategy = mtlkit_torchjd.CRMOGM(3, weighting="modo", alpha=0.5)
        first = weights(strategy, jacobian(2), [0, 1])
        assert strategy.smoothed[:2].tolist() == first.tolist()
        assert strategy.smoothed[2].isnan()
        weights(strategy, jacobian(3))
        assert strategy.smoothed.isfinite().all()


class TestTooFewTasks:
    def test_for_krum_weigh_alike(self):
        assert weights(mtlkit_torchjd.Krum(4, n_byzantine=1), jacobian(3), [0, 1, 2]).tolist() == [1 / 3] * 3

    def test_for_krum_are_all_selected(self):
        assert weights(mtlkit_torchjd.Krum(3, n_selected=5), jacobian(3)).tolist() == [1 / 3] * 3

    def test_for_the_trimmed_mean_are_trimmed_less(self):
        given = tensor([[1.0], [5.0], [90.0], [0.0]])
        strategy = mtlkit_torchjd.TrimmedMean(5, trim_number=2)
        assert direction(strategy, given, [0, 1, 2, 3]).tolist() == [3.0]
        assert direction(strategy, given[:2], [0, 1]).tolist() == [3.0]


class TestOptions:
    def test_that_are_not_one_for_each_task_are_refused(self):
        with pytest.raises(ValueError, match="pref_vector needs one number for each of the 3 tasks; received 2"):
            mtlkit_torchjd.UPGrad(3, pref_vector=[1.0, 2.0])
        with pytest.raises(ValueError, match="tau needs one number for each of the 2 tasks but the first; received"):
            mtlkit_torchjd.PCD(3, tau=[0.1])

    @pytest.mark.parametrize(
        ("name", "extra"),
        [("UPGrad", "quadprog"), ("DualProj", "quadprog"), ("CAGrad", "cagrad"), ("NashMTL", "nash-mtl"),
         ("FairGrad", "fairgrad")],
    )  # fmt: skip
    def test_that_need_another_package_say_so(self, name, extra, monkeypatch):
        monkeypatch.setattr(torchjd._mixins, "find_spec", lambda _: None)
        expected = rf"requires \[.*\] to be installed. Install it with: pip install 'mtlkit-torchjd\[{extra}\]'"
        with pytest.raises(PluginError, match=expected) as caught:
            STRATEGIES[name](2)
        assert caught.value.exit_code == 3

    @pytest.mark.parametrize("name", ["UPGrad", "CAGrad", "FairGrad", "NashMTL"])
    def test_are_in_an_extra_that_brings_what_torchjd_needs(self, name):
        requires = importlib.metadata.requires("mtlkit-torchjd")
        extra = {"UPGrad": "quadprog-projector", "NashMTL": "nash-mtl"}.get(name, name.lower())
        assert any(re.match(rf"torchjd\[{extra}\]", each) for each in requires)

    def test_smooth_every_weighting_of_a_gram_matrix(self):
        assert {cls.__name__ for cls in _CLASSES.values()} == {
            name for name, cls in STRATEGIES.items() if cls.needs is mtlkit.Needs.GRAMIAN and cls is not CRMOGM
        }


class TestDegenerateGradients:
    @pytest.mark.parametrize("name", ["CAGrad", solvable("NashMTL")])
    @pytest.mark.parametrize(
        "gradients", [[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0], [0.0]]]
    )
    def test_give_finite_weights_by_cvxpy(self, name, gradients):
        assert weights(STRATEGIES[name](2), tensor(gradients)).isfinite().all()


class TestDraws:
    @pytest.mark.parametrize("name", ["PCGrad", "GradVac", "GradDrop", "Random"])
    def test_are_those_of_the_seed(self, name):
        first, same, other = (STRATEGIES[name](4, seed=seed) for seed in (1, 1, 2))
        seen = [[direction(each, jacobian()).tolist() for _ in range(3)] for each in (first, same, other)]
        assert seen[0] == seen[1]
        assert seen[0] != seen[2]

    @pytest.mark.parametrize("name", ["PCGrad", "GradDrop", "Random"])
    def test_differ_from_step_to_step(self, name):
        strategy = STRATEGIES[name](4, seed=1)
        assert len({tuple(direction(strategy, jacobian()).tolist()) for _ in range(8)}) > 4

    def test_leave_torchs_generator_alone(self):
        before = torch.get_rng_state()
        direction(mtlkit_torchjd.GradDrop(4, seed=1), jacobian())
        assert torch.equal(torch.get_rng_state(), before)


@needs_ecos
class TestNashMTL:
    def test_uses_its_weights_again(self):
        strategy = mtlkit_torchjd.NashMTL(3, update_weights_every=2, max_norm=0.0)
        seen = [weights(strategy, jacobian(3, seed=step)).tolist() for step in range(3)]
        assert seen[0] == seen[1] != seen[2]

    def test_takes_a_single_task_and_gradients_of_0(self):
        assert weights(mtlkit_torchjd.NashMTL(2), tensor([[3.0, 4.0]]), [1]).tolist() == [0.2]
        assert weights(mtlkit_torchjd.NashMTL(2, max_norm=0.0), tensor([[3.0, 4.0]]), [1]).tolist() == [1.0]
        assert weights(mtlkit_torchjd.NashMTL(2), torch.zeros(2, 4).double()).tolist() == [1.0, 1.0]


def test_a_run_trains(tmp_path):
    result = mtlkit.train(
        {
            "run": {"name": "digits", "dir": str(tmp_path)},
            "tasks": ["digit", "parity"],
            "encoder": {"name": "mlp", "layers": [16]},
            "strategy": {"name": "torchjd-upgrad", "reg_eps": 1e-6},
            "optimizer": {"name": "adam", "lr": 0.01},
            "training": {"steps": 60, "batch_size": 32, "threads": 1, "device": "cpu"},
        }
    )
    assert result.results["digit"].metrics["accuracy"] > 0.5
    environment = json.loads((result.folder / "environment.json").read_text(encoding="utf-8"))
    used = next(plugin for plugin in environment["plugins"] if plugin["kind"] == "strategies")
    assert (used["distribution"], used["name"]) == ("mtlkit-torchjd", "torchjd-upgrad")
