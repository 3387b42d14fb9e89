"""Held-out rows in a run: which they are, what is measured on them, and that nothing else changes for it."""

import itertools

import pytest
import torch

import mtlkit
from mtlkit.engine.outlook import draw_held_out, outlook

SHARED = ["side", "distance"]
APART = ["side", {"name": "distance", "options": {"rows": 50, "seed": 2}}]
STILL = {"name": "auto-lambda", "init": 1.0, "lr": 1e-300}  # weights of 1 that no step moves
FEW = {"steps": 6, "batch_size": 8}


@pytest.fixture(name="built")
def fixture_built(configure, registry_with):
    """Return a function that builds an experiment."""
    return lambda **settings: mtlkit.build(configure(**settings), registry=registry_with())


def rows_of(group, batch):
    """Return the numbers of a batch's rows among those that are trained on."""
    inputs = group.splits["train"].inputs
    return [int((inputs == row).all(1).nonzero()[0]) for row in batch.inputs]


def of(stream, n):
    return [stream.next() for _ in range(n)]


@pytest.mark.parametrize("tasks", [SHARED, APART], ids=["shared", "apart"])
class TestTheRows:
    def test_are_training_rows_in_an_order_of_their_own(self, built, tasks):
        experiment = built(tasks=tasks, strategy="auto-lambda", training=FEW)
        for group in experiment.groups:
            drawn = []
            for stream in (group.stream, group.held_out):
                size = len(stream.split)
                batches = of(stream, -(-size // 8))
                rows = list(itertools.chain(*(rows_of(group, batch) for batch in batches)))
                assert sorted(rows[:size]) == list(range(size))  # each once in a pass
                drawn.append(rows)
            assert drawn[0] != drawn[1]

    def test_come_from_the_seed(self, built, tasks):
        seeds = [built(tasks=tasks, strategy="moml", training=FEW, run={"seed": seed}) for seed in (0, 0, 1)]
        first, again, other = ([of(group.held_out, 2) for group in each.groups] for each in seeds)
        for one, same, another in zip(first, again, other, strict=True):
            assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(one, same, strict=True))
            assert not all(torch.equal(a.inputs, b.inputs) for a, b in zip(one, another, strict=True))

    def test_are_not_drawn_for_a_strategy_that_does_not_look_ahead(self, built, tasks):
        experiment = built(tasks=tasks, strategy="gradnorm", training=FEW)
        assert [group.held_out for group in experiment.groups] == [None] * len(experiment.groups)
        assert (
            outlook(experiment, [group.stream.next() for group in experiment.groups], draw_held_out(experiment)) is None
        )


@pytest.mark.parametrize("tasks", [SHARED, APART], ids=["shared", "apart"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_looking_ahead_changes_nothing_but_the_weights(train, weights, records, tasks, accumulate):
    """With weights that stay at 1 a run is that of fixed weights bit for bit, dropout and momentum among it."""
    settings = {
        "tasks": tasks,
        "encoder": {"name": "mlp", "layers": [8], "dropout": 0.3},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        "training": FEW | {"accumulate": accumulate},
    }
    ahead, fixed = (
        train(run={"name": name}, strategy=strategy, **settings).folder
        for name, strategy in (("ahead", STILL), ("fixed", "fixed"))
    )
    assert weights(ahead) == weights(fixed)
    assert records(ahead) == records(fixed)


class TestTheSlopes:
    def slopes(self, experiment, **streams):
        batches = [group.stream.next() for group in experiment.groups]
        return outlook(experiment, batches, draw_held_out(experiment)), batches

    @pytest.mark.parametrize("tasks", [SHARED, APART], ids=["shared", "apart"])
    def test_are_products_of_gradients_where_the_step_is_short(self, built, tasks):
        """To first order they are -lr (p_i g_i) . (p_j h_j), with p the tasks' own constant weights."""
        lr, own = 1e-6, torch.tensor([2.0, 0.5])
        given = [task if isinstance(task, dict) else {"name": task} for task in tasks]
        given = [each | {"weight": weight} for each, weight in zip(given, own.tolist(), strict=True)]
        settings = {
            "tasks": given,
            "encoder": {"name": "mlp", "layers": [8], "activation": "tanh"},
            "strategy": "moml",
            "optimizer": {"name": "sgd", "lr": lr},
            "training": FEW | {"precision": "float64"},
        }
        experiment, twin = built(**settings), built(**settings)
        measured, batches = self.slopes(experiment)
        held_out = [group.held_out.next() for group in twin.groups]
        g, h = (own.double()[:, None] * jacobian(twin, each) for each in (batches, held_out))
        torch.testing.assert_close(measured.slopes, -lr * h @ g.T, rtol=1e-3, atol=0)

    def test_are_in_full_precision_under_autocast(self, built):
        settings = {"tasks": SHARED, "strategy": "moml", "optimizer": {"name": "sgd", "lr": 0.1}}
        exact, cast = (
            self.slopes(built(training=FEW | {"precision": precision}, **settings))[0].slopes
            for precision in ("float32", "bfloat16")
        )
        assert torch.equal(exact, cast)

    def test_are_of_the_tasks_that_have_labels(self, built):
        """Rows 0, 2, 4, ... have no side, and rows 1, 3, 5, ... no distance."""
        tasks = [{"name": name, "options": {"gaps": 2}} for name in ("side", "distance")]
        experiment = built(tasks=tasks, strategy="moml", training=FEW | {"batch_size": 1})
        shapes = set()
        for _ in range(12):
            batches = [group.stream.next() for group in experiment.groups]
            has_side = int(batches[0].targets["side"]) >= 0
            measured = outlook(experiment, batches, draw_held_out(experiment))
            assert measured.tasks.tolist() == [0 if has_side else 1]
            shapes.add(tuple(measured.slopes.shape))
        assert shapes == {(1, 1)}

    def test_are_none_where_no_primary_task_is_held_out(self, built):
        tasks = [{"name": name, "options": {"gaps": 2}} for name in ("side", "distance")]
        strategy = {"name": "auto-lambda", "primary": ["distance"]}
        experiment = built(tasks=tasks, strategy=strategy, training=FEW | {"batch_size": 1})
        rows = set()
        for _ in range(12):
            measured, _ = self.slopes(experiment)
            rows.add(len(measured.slopes))
        assert rows == {0, 1}


def jacobian(experiment, batches):
    """Return each task's gradient at all parameters ``[T, P]``."""
    rows = []
    parameters = list(experiment.model.parameters())
    for group, batch in zip(experiment.groups, batches, strict=True):
        for index in group.tasks:
            label, task = experiment.labels[index], experiment.tasks[index].task
            loss = task.loss(experiment.model(batch.inputs, [label])[label], batch.targets[task.target])
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            flat = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
            rows.append((index, torch.cat([part.flatten() for part in flat])))
    return torch.stack([row for _, row in sorted(rows, key=lambda each: each[0])])


def test_the_weights_are_what_the_outlook_says(train, records, built):
    """The first step of auto-lambda by plain descent, from the outlook of a twin of the run."""
    strategy = {"name": "auto-lambda", "optimizer": "sgd", "lr": 0.5}
    twin = built(strategy=strategy, training=FEW)
    twin.model.train()
    measured = outlook(twin, [group.stream.next() for group in twin.groups], draw_held_out(twin))
    step, *_ = records(train(strategy=strategy, training=FEW).folder, "step")
    expected = (0.1 - 0.5 * measured.slopes.sum(0)).tolist()
    assert list(step["weights"].values()) == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx([0.1, 0.1], rel=1e-3)


def test_a_primary_task_is_named_by_its_label(built):
    experiment = built(strategy={"name": "auto-lambda", "primary": ["distance"]})
    assert experiment.strategy.objectives().tolist() == [[0.0, 1.0]]


def test_a_primary_task_that_the_run_has_not_is_told_of(built):
    with pytest.raises(mtlkit.errors.ConfigError, match="Primary names the task 'size', and the labels are 'side'"):
        built(strategy={"name": "auto-lambda", "primary": ["size"]})
