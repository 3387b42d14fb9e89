"""mtlkit.look_ahead against the derivative through the trial step, by second-order autograd."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import mtlkit.gradients.outlook as module
from mtlkit import Outlook, Strategy, Weighting, backward, look_ahead
from mtlkit.errors import NonFiniteError
from mtlkit.strategies import Fixed

TRIAL = [0.7, 1.5, 0.4]
OBJECTIVES = [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.5, 1.0, 0.0]]


class Asks(Strategy):
    """Asks with given trial weights for given objectives, and keeps what it hears."""

    looks_ahead = True

    def __init__(self, trial=TRIAL, objectives=OBJECTIVES):
        super().__init__(len(trial))
        self.given = torch.tensor(trial, dtype=torch.float64)
        self.asked = torch.tensor(objectives, dtype=torch.float64)
        self.heard = []

    def trial(self, tasks=None):
        return self.given if tasks is None else self.given[tasks]

    def objectives(self, tasks=None):
        return self.asked if tasks is None else self.asked[:, tasks]

    def foresee(self, slopes, tasks=None):
        self.heard.append((slopes, tasks))

    def weights(self, losses, gramian=None, tasks=None):
        self.heard.append("weights")
        return Weighting(torch.ones_like(losses))


class Model(nn.Module):
    """A smooth encoder and three heads, each with a loss of its own kind, and two batches."""

    def __init__(self, dtype=torch.float64, extra=()):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.encoder = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *extra, nn.Linear(6, 5), nn.Tanh())
            self.heads = nn.ModuleList(nn.Linear(5, 3) for _ in range(3))
            self.batches = [(torch.randn(7, 4, dtype=dtype), torch.randn(7, 3, dtype=dtype)) for _ in range(2)]
        self.to(dtype)

    def forward(self, batch):
        rows, targets = self.batches[batch]
        z = self.encoder(rows)
        outputs = [head(z) for head in self.heads]
        return [
            F.mse_loss(outputs[0], targets),
            F.cross_entropy(outputs[1], targets.argmax(1)),
            3 * F.smooth_l1_loss(outputs[2], targets.cos()),
        ]

    def look(self, strategy, optimizer, tasks=None, held_out_tasks=None):
        def of(batch, present):
            def losses():
                every = self(batch)
                return every if present is None else [every[task] for task in present.tolist()]

            return losses

        return look_ahead(
            strategy,
            training=of(0, tasks),
            held_out=of(1, held_out_tasks),
            model=self,
            optimizer=optimizer,
            tasks=tasks,
            held_out_tasks=held_out_tasks,
        )

    def exact(self, rates, drifts=None, tasks=(0, 1, 2), objectives=OBJECTIVES):
        """Return each objective's derivative with respect to each weight, through the graph of the trial step."""
        named = dict(self.named_parameters())
        weights = torch.tensor([TRIAL[task] for task in tasks], dtype=torch.float64, requires_grad=True)
        losses = functional_call(self, named, (0,))
        total = sum(weight * losses[task] for weight, task in zip(weights, tasks, strict=True))
        gradients = torch.autograd.grad(total, list(named.values()), create_graph=True, allow_unused=True)
        after = {}
        for (name, value), gradient in zip(named.items(), gradients, strict=True):
            drift = 0 if drifts is None else drifts[name]
            after[name] = value if gradient is None else value - rates[name] * (gradient + drift)
        held_out = functional_call(self, after, (1,))
        rows = []
        for factors in objectives:
            objective = sum(factor * loss for factor, loss in zip(factors, held_out, strict=True))
            rows.append(torch.autograd.grad(objective, weights, retain_graph=True, allow_unused=True)[0])
        return torch.stack([torch.zeros_like(weights) if row is None else row for row in rows])


def sgd(model, **settings):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.3, **settings})


def rates(model, rate=0.3):
    return {name: rate for name, _ in model.named_parameters()}


class TestTheDerivative:
    def test_is_that_through_the_trial_step(self):
        model = Model()
        slopes = model.look(Asks(), sgd(model)).slopes
        exact = model.exact(rates(model))
        assert exact.abs().min(1).values[[0, 2]].gt(1e-4).all()  # the comparison compares something
        assert slopes.shape == (3, 3)
        assert slopes.dtype is torch.float64
        torch.testing.assert_close(slopes, exact, rtol=1e-3, atol=1e-6)

    def test_is_missed_by_the_square_of_the_radius(self, monkeypatch):
        model = Model()
        exact = model.exact(rates(model))
        errors = []
        for radius in (0.04, 0.02, 0.01, 0.005):
            monkeypatch.setattr(module, "RADIUS", radius)
            errors.append((model.look(Asks(), sgd(model)).slopes - exact).norm())
        for wide, narrow in itertools.pairwise(errors):
            assert float(wide / narrow) == pytest.approx(4, rel=0.05)

    def test_is_exact_for_quadratic_losses(self):
        """There a central difference has no error: any other is a mistake of the formula."""
        torch.manual_seed(0)
        theta = nn.Parameter(torch.randn(5, dtype=torch.float64))
        forms = [torch.randn(5, 5, dtype=torch.float64) for _ in range(6)]

        def losses(batch):
            return [(form @ theta).square().sum() / 10 for form in forms[3 * batch : 3 * batch + 3]]

        optimizer = torch.optim.SGD([theta], lr=0.05)
        outlook = look_ahead(
            Asks(), training=lambda: losses(0), held_out=lambda: losses(1), model=[], optimizer=optimizer
        )
        train, held = ([2 * form.T @ form / 10 for form in forms[start : start + 3]] for start in (0, 3))
        point = theta.detach()
        after = point - 0.05 * sum(w * form @ point for w, form in zip(TRIAL, train, strict=True))
        expected = [
            [-0.05 * (form @ point) @ sum(f * h @ after for f, h in zip(row, held, strict=True)) for form in train]
            for row in OBJECTIVES
        ]
        torch.testing.assert_close(outlook.slopes, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)

    def test_takes_each_parameters_own_rate(self):
        model = Model()
        optimizer = torch.optim.SGD(
            [{"params": model.encoder.parameters(), "lr": 0.5}, {"params": model.heads.parameters()}], lr=0.02
        )
        own = {name: 0.5 if name.startswith("encoder") else 0.02 for name, _ in model.named_parameters()}
        torch.testing.assert_close(model.look(Asks(), optimizer).slopes, model.exact(own), rtol=2e-3, atol=1e-6)

    def test_follows_momentum_and_decay(self):
        model = Model()
        optimizer = sgd(model, momentum=0.9, weight_decay=0.3)
        for _ in range(2):
            optimizer.zero_grad()
            sum(model(0)).backward()
            optimizer.step()
        drifts = {
            name: 0.9 * optimizer.state[value]["momentum_buffer"] + 0.3 * value.detach()
            for name, value in model.named_parameters()
        }
        slopes, exact = model.look(Asks(), optimizer).slopes, model.exact(rates(model), drifts)
        torch.testing.assert_close(slopes, exact, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(exact, model.exact(rates(model)), rtol=0.05)

    def test_is_that_of_plain_descent_whatever_the_optimizer(self):
        model = Model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.3, weight_decay=0.3)
        drifts = {name: 0.3 * value.detach() for name, value in model.named_parameters()}
        slopes = model.look(Asks(), optimizer).slopes
        torch.testing.assert_close(slopes, model.exact(rates(model), drifts), rtol=1e-3, atol=1e-6)

    def test_is_of_the_tasks_present_in_either_batch(self):
        model = Model()
        tasks, held_out_tasks = torch.tensor([0, 2]), torch.tensor([1, 2])
        outlook = model.look(Asks(), sgd(model), tasks, held_out_tasks)
        assert outlook.tasks is tasks
        objectives = [[0.0, *row[1:]] for row in OBJECTIVES]
        exact = model.exact(rates(model), tasks=(0, 2), objectives=objectives)
        torch.testing.assert_close(outlook.slopes, exact, rtol=1e-3, atol=1e-6)

    def test_leaves_frozen_parameters_and_those_not_held_where_they_are(self):
        model = Model()
        model.encoder[0].requires_grad_(requires_grad=False)
        held = [*model.encoder[2].parameters(), *model.heads.parameters()]
        optimizer = torch.optim.SGD([*model.encoder[0].parameters(), *held[:-1]], lr=0.3, weight_decay=0.5)
        own, drifts = rates(model), {name: 0.5 * value.detach() for name, value in model.named_parameters()}
        own |= {"encoder.0.weight": 0.0, "encoder.0.bias": 0.0, "heads.2.bias": 0.0}
        model.encoder[0].requires_grad_(requires_grad=True)
        exact = model.exact(own, drifts)
        model.encoder[0].requires_grad_(requires_grad=False)
        torch.testing.assert_close(model.look(Asks(), optimizer).slopes, exact, rtol=1e-3, atol=1e-6)

    def test_in_float32(self):
        model, wide = Model(torch.float32), Model()
        wide.load_state_dict(model.state_dict())
        wide.batches = [(rows.double(), targets.double()) for rows, targets in model.batches]
        slopes = model.look(Asks(), sgd(model)).slopes
        torch.testing.assert_close(slopes, wide.exact(rates(wide)), rtol=5e-3, atol=5e-5)

    def test_is_zero_where_nothing_moves_or_nothing_changes(self):
        model = Model()
        assert model.look(Asks(), sgd(model, lr=0.0)).slopes.eq(0).all()
        assert model.look(Asks(), sgd(model)).slopes[1].eq(0).all()  # an objective that counts no loss

    def test_is_refused_where_the_trial_step_led_too_far(self):
        model = Model(torch.float32)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(
            NonFiniteError, match=r"Non-finite held-out loss of task 0 \(.*after the trial step"
        ) as caught:
            model.look(Asks(), sgd(model, lr=1e38))
        assert caught.value.what == "held-out loss"
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_is_refused_where_a_loss_that_counts_is_no_number(self):
        """And what counts in no objective does not matter."""
        model = Model()
        model.batches[1][1][0, 1] = torch.inf  # of the held-out targets: the losses 0 and 2 are not finite
        with pytest.raises(NonFiniteError, match=r"Non-finite held-out loss of task 0 .*, task 2 ") as caught:
            model.look(Asks(), sgd(model))
        assert caught.value.places == (0, 2)
        assert model.look(Asks(objectives=[[0.0, 1.0, 0.0]]), sgd(model)).slopes.isfinite().all()

    def test_is_refused_where_a_loss_of_the_training_batch_is_no_number(self):
        model = Model()
        model.batches[0][1][0, 1] = torch.nan
        with pytest.raises(NonFiniteError, match="Non-finite loss of task 0") as caught:
            model.look(Asks(), sgd(model))
        assert caught.value.what == "loss"


class TestWhatIsLeft:
    def state(self, model):
        return {name: value.clone() for name, value in model.state_dict().items()}

    def assert_same(self, model, before):
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name

    @pytest.mark.parametrize("optimizer", [sgd, lambda model: torch.optim.Adam(model.parameters(), lr=0.1)])
    def test_is_what_was_there(self, optimizer):
        """Bit for bit, batch normalisation's statistics and the random state among it."""
        model = Model(torch.float32, extra=[nn.BatchNorm1d(6), nn.Dropout(0.3)])
        used = optimizer(model)
        before, random = self.state(model), torch.get_rng_state()
        model.look(Asks(), used)
        self.assert_same(model, before)
        assert torch.equal(torch.get_rng_state(), random)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not used.state
        model(0)
        assert not torch.equal(
            model.encoder[2].running_mean, before["encoder.2.running_mean"]
        )  # it does move by itself

    @pytest.mark.parametrize("call", [1, 2, 3, 4])
    def test_is_what_was_there_where_a_batch_fails(self, call):
        model = Model(torch.float32, extra=[nn.BatchNorm1d(6), nn.Dropout(0.3)])
        before, random = self.state(model), torch.get_rng_state()
        calls = itertools.count(1)

        def losses(batch):
            made = model(batch)
            if next(calls) == call:
                raise RuntimeError("out of luck")
            return made

        with pytest.raises(RuntimeError, match="out of luck"):
            look_ahead(
                Asks(),
                training=lambda: losses(0),
                held_out=lambda: losses(1),
                model=[model.encoder, model.heads],
                optimizer=sgd(model),
            )
        self.assert_same(model, before)
        assert torch.equal(torch.get_rng_state(), random)

    def test_is_the_strategys_own_parameters(self):
        model, strategy = Model(), Asks()
        strategy.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        optimizer = torch.optim.SGD([*model.parameters(), strategy.scale], lr=0.3, weight_decay=0.5)
        drifts = {name: 0.5 * value.detach() for name, value in model.named_parameters()}
        slopes = model.look(strategy, optimizer).slopes
        assert strategy.scale == 1
        torch.testing.assert_close(slopes, model.exact(rates(model), drifts), rtol=1e-3, atol=1e-6)


class TestDraws:
    def test_the_training_batch_draws_what_it_will_draw_in_the_pass(self):
        model = Model(extra=[nn.Dropout(0.5)])
        masks = []
        model.encoder[2].register_forward_hook(lambda *given: masks.append(given[2] != 0))
        torch.manual_seed(5)
        model.look(Asks(objectives=[[1.0, 1.0, 1.0]]), sgd(model))
        model(0)
        first, held_out, plus, minus, after = masks
        for mask in (plus, minus, after):
            assert torch.equal(mask, first)
        assert not torch.equal(held_out, first)

    def test_autocast_is_off(self):
        model = Model(torch.float32)
        seen = []

        def losses():
            seen.append(torch.is_autocast_enabled("cpu"))
            return model(0)

        with torch.autocast("cpu", torch.bfloat16):
            outlook = look_ahead(Asks(), training=losses, held_out=losses, model=model, optimizer=sgd(model))
            assert torch.is_autocast_enabled("cpu")
        assert not any(seen)
        assert outlook.slopes.isfinite().all()


class TestItsUse:
    def test_backward_tells_the_strategy_before_it_asks(self):
        model, strategy, tasks = Model(), Asks(), torch.tensor([2, 0])
        outlook = model.look(strategy, sgd(model), tasks)
        losses = model(0)
        backward([losses[2], losses[0]], strategy=strategy, tasks=tasks, ahead=outlook)
        (slopes, told), asked = strategy.heard
        assert slopes is outlook.slopes
        assert told is tasks
        assert asked == "weights"

    def test_nothing_is_run_where_nothing_is_asked(self):
        model = Model()

        def never():
            raise AssertionError("it was run")

        strategy = Asks(objectives=torch.zeros(0, 3).tolist())
        strategy.asked = torch.zeros(0, 3, dtype=torch.float64)
        outlook = look_ahead(strategy, training=never, held_out=never, model=model, optimizer=sgd(model))
        assert outlook.slopes.shape == (0, 3)

    def test_losses_may_be_a_tensor_or_have_names(self):
        model = Model()
        expected = model.look(Asks(), sgd(model)).slopes
        outlook = look_ahead(
            Asks(),
            training=lambda: torch.stack(model(0)),
            held_out=lambda: dict(zip("abc", model(1), strict=True)),
            model=model,
            optimizer=sgd(model),
        )
        torch.testing.assert_close(outlook.slopes, expected, rtol=1e-9, atol=1e-12)


class TestErrors:
    def test_an_outlook_is_needed_in_training_alone(self):
        model, strategy = Model(), Asks()
        with pytest.raises(
            ValueError,
            match=r"Asks learns from held-out rows: call mtlkit\.look_ahead\(\) before .* pass what .* ahead=",
        ):
            backward(model(0), strategy=strategy)
        assert strategy.heard == []
        assert all(parameter.grad is None for parameter in model.parameters())
        strategy.eval()
        backward(model(0), strategy=strategy)
        assert strategy.heard == ["weights"]

    def test_an_outlook_is_for_strategies_that_look_ahead(self):
        model = Model()
        outlook = Outlook(torch.zeros(1, 3, dtype=torch.float64))
        with pytest.raises(ValueError, match="Fixed does not look ahead: ahead= is for a strategy that does"):
            backward(model(0), strategy=Fixed(3), ahead=outlook)
        with pytest.raises(ValueError, match=r"Fixed does not look ahead: backward\(\) needs nothing more for it"):
            model.look(Fixed(3), sgd(model))

    def test_an_outlook_is_of_the_tasks_of_the_losses(self):
        model, strategy = Model(), Asks()
        outlook = model.look(strategy, sgd(model), torch.tensor([0, 2]))
        with pytest.raises(ValueError, match=r"of the tasks \[0, 1, 2\], and look_ahead\(\) saw the tasks \[0, 2\]"):
            backward(model(0), strategy=strategy, ahead=outlook)

    def test_the_optimizer_moves_something(self):
        model = Model()
        frozen = torch.optim.SGD([torch.zeros(2)], lr=0.1)
        with pytest.raises(ValueError, match="holds no parameter that requires a gradient, so no step leads anywhere"):
            model.look(Asks(), frozen)

    def test_the_losses_are_one_scalar_for_each_task_present(self):
        model = Model()
        with pytest.raises(ValueError, match="received 3 losses for 2 tasks"):
            look_ahead(
                Asks(),
                training=lambda: model(0)[:2],
                held_out=lambda: model(1),
                model=model,
                optimizer=sgd(model),
                tasks=torch.tensor([0, 1]),
                held_out_tasks=torch.tensor([0, 1]),
            )

    @pytest.mark.parametrize(
        ("strategy", "said"),
        [
            (lambda: Asks(trial=TRIAL[:2]), None),
            (lambda: Asks(objectives=[[1.0, 1.0]]), r"Asks\.objectives\(\) gave factors of shape \(1, 2\), .*\(1, 3\)"),
        ],
    )
    def test_the_strategy_answers_for_the_tasks_present(self, strategy, said):
        model, made = Model(), strategy()
        made.n_tasks = 3
        said = said or r"Asks\.trial\(\) gave weights of shape \(2,\), and shape \(3,\) was to be expected with 3 tasks"
        with pytest.raises(ValueError, match=said):
            model.look(made, sgd(model))
