"""The loop, step by step: lengths, batches, learning rates, weights, clipping, precision, labels that are missing."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import mtlkit
from mtlkit.engine import checkpoint
from mtlkit.errors import DataError

SGD = {"name": "sgd", "lr": 0.1}
LAST = {"best": "last"}


def best(folder):
    """Return a run's best weights."""
    return load_file(folder / "best" / "weights.safetensors")


def distance_between(one, other):
    """Return the norm of the difference of two state dicts."""
    return math.sqrt(sum((one[name] - other[name]).double().square().sum().item() for name in one))


def assert_close(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **tolerance)


@pytest.fixture(name="initial")
def fixture_initial(configure, registry_with):
    """Return a function that builds a run's weights before the first step."""
    return lambda **settings: mtlkit.build(configure(**settings), registry=registry_with()).model.state_dict()


@pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
@pytest.mark.parametrize("tasks", [["side", "distance"], ["side", {"name": "distance", "options": {"seed": 5}}]])
def test_training_reduces_the_losses(train, records, strategy, tasks):
    run = train(strategy=strategy, tasks=tasks, training={"steps": 80, "steps_per_epoch": 10, "log_every": 80})
    first, *_, last = records(run.folder, "evaluation")[:-1]
    for label in ("side", "distance"):
        assert last["tasks"][label]["loss"] < 0.7 * first["tasks"][label]["loss"]
    assert run.results["side"].metrics["accuracy"] > 0.85


class TestLength:
    @pytest.mark.parametrize(
        ("training", "steps", "evaluations"),
        [
            ({"epochs": 2}, 16, [8, 16]),
            ({"epochs": 2, "batch_size": 120}, 2, [1, 2]),
            ({"epochs": 2, "batch_size": 1000}, 2, [1, 2]),
            ({"epochs": 2, "accumulate": 2}, 8, [4, 8]),
            ({"epochs": 2, "accumulate": 3}, 6, [3, 6]),
            ({"epochs": 2, "steps_per_epoch": 3}, 6, [3, 6]),
            ({"steps": 10}, 10, [8, 10]),
            ({"steps": 5}, 5, [5]),
            ({"steps": 5, "steps_per_epoch": 2}, 5, [2, 4, 5]),
        ],
    )
    def test_in_epochs_and_steps(self, train, records, training, steps, evaluations):
        tasks = ["side", {"name": "distance", "options": {"rows": 50, "seed": 1}}]
        run = train(tasks=tasks, training={"steps": None, "steps_per_epoch": None} | training)
        assert run.steps == steps
        validations = [each for each in records(run.folder, "evaluation") if each["split"] == "validation"]
        assert [each["step"] for each in validations] == evaluations
        assert [each["step"] for each in records(run.folder, "step")] == list(range(1, steps + 1))

    def test_is_ten_epochs_by_default(self, configure, registry_with):
        config = configure(training={"steps": None, "steps_per_epoch": None})
        plan = mtlkit.build(config, registry=registry_with()).plan
        assert (plan.steps, plan.steps_per_epoch) == (80, 8)

    def test_rhythms_in_epochs(self, train, records):
        run = train(
            training={"steps": 21, "steps_per_epoch": 4, "log_every": 5},
            evaluation={"every": 2},
            checkpoints={"every": 2, "keep": 9},
        )
        assert [each["step"] for each in records(run.folder, "step")] == [5, 10, 15, 20, 21]
        assert [each["step"] for each in records(run.folder, "evaluation")][:-1] == [8, 16, 21]
        assert [each["epoch"] for each in records(run.folder, "evaluation")][:-1] == [2, 4, 21 / 4]
        assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == [
            "step-000008",
            "step-000016",
            "step-000021",
        ]

    def test_recording_and_evaluating_less_changes_no_weights(self, train, weights):
        often = train(run={"name": "often"}, checkpoints=LAST)
        seldom = train(
            run={"name": "seldom"},
            checkpoints={**LAST, "every": 9},
            evaluation={"every": 9},
            training={"log_every": 9},
        )
        assert weights(often.folder) == weights(seldom.folder)


class TestGradients:
    @pytest.mark.parametrize("name", ["sgd", "adam"])
    def test_of_two_halves_are_those_of_the_whole_batch(self, train, name):
        settings = {"optimizer": {"name": name, "lr": 0.01}, "checkpoints": LAST}
        numbers = {"precision": "float64", "steps": 10}
        halves = train(run={"name": "halves"}, training={**numbers, "accumulate": 2, "batch_size": 12}, **settings)
        whole = train(run={"name": "whole"}, training={**numbers, "batch_size": 24}, **settings)
        assert_close(best(halves.folder), best(whole.folder), rtol=1e-9, atol=1e-12)

    def test_of_accumulated_passes_are_recorded_as_their_mean(self, train, records):
        settings = {"optimizer": SGD, "tasks": ["side"]}
        halves = train(run={"name": "halves"}, training={"accumulate": 2, "batch_size": 12, "steps": 3}, **settings)
        whole = train(run={"name": "whole"}, training={"batch_size": 24, "steps": 3}, **settings)
        for one, other in zip(records(halves.folder, "step"), records(whole.folder, "step"), strict=True):
            assert one["losses"]["side"] == pytest.approx(other["losses"]["side"], rel=1e-5)

    @pytest.mark.parametrize("strategy", ["fixed", "gradnorm"])
    def test_are_clipped(self, train, initial, strategy):
        settings = {"optimizer": {"name": "sgd", "lr": 1.0}, "strategy": strategy, "checkpoints": LAST}
        free = train(run={"name": "free"}, training={"steps": 1}, **settings)
        clipped = train(run={"name": "clipped"}, training={"steps": 1, "clip_norm": 0.25}, **settings)
        loose = train(run={"name": "loose"}, training={"steps": 1, "clip_norm": 1e6}, **settings)
        before = initial()
        assert distance_between(best(free.folder), before) > 1
        assert distance_between(best(clipped.folder), before) == pytest.approx(0.25, rel=1e-3)
        assert_close(best(loose.folder), best(free.folder))

    def test_of_a_step_are_the_plain_ones(self, train, initial, toy):
        """One step of SGD on both tasks is one step of plain PyTorch on the sum of their losses."""
        run = train(optimizer=SGD, training={"steps": 1, "batch_size": 120, "precision": "float64"}, checkpoints=LAST)
        given = toy.Points().splits()["train"]
        weights = {name: tensor.double().requires_grad_() for name, tensor in initial().items()}
        (matrix, bias), (side, side_bias), (far, far_bias) = zip(*[iter(weights.values())] * 2, strict=True)
        features = F.relu(F.linear(given.inputs.double(), matrix, bias))
        loss = F.cross_entropy(F.linear(features, side, side_bias), given.targets["side"])
        loss = loss + F.mse_loss(F.linear(features, far, far_bias), given.targets["distance"].double())
        loss.backward()
        # The initial weights were drawn in float32, so they are the same in both.
        expected = {name: (tensor - 0.1 * tensor.grad).detach() for name, tensor in weights.items()}
        assert_close(best(run.folder), expected)


class TestHeads:
    def test_get_the_weighted_gradient_or_the_plain_one(self, train):
        moved = {}
        for name, strategy, heads in (
            ("weighted", {"name": "fixed", "alpha": [0.5, 2.0]}, {}),
            ("plain", {"name": "fixed", "alpha": [0.5, 2.0]}, {"heads": "plain"}),
            ("equal", "fixed", {}),
        ):
            run = train(
                run={"name": name},
                strategy=strategy,
                training={"steps": 1, **heads},
                optimizer=SGD,
                checkpoints={"best": "last"},
            )
            moved[name] = best(run.folder)
        is_head = {key: key.startswith("heads.") for key in moved["plain"]}
        assert any(is_head.values())
        for key, tensor in moved["plain"].items():
            other, another = ("equal", "weighted") if is_head[key] else ("weighted", "equal")
            torch.testing.assert_close(tensor, moved[other][key])
            assert not torch.allclose(tensor, moved[another][key])


class TestPrecision:
    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
    @pytest.mark.parametrize(
        ("precision", "dtype"),
        [("float32", torch.float32), ("float64", torch.float64), ("bfloat16", torch.float32)],
    )
    def test_weights_have_its_dtype(self, train, precision, dtype, strategy):
        run = train(strategy=strategy, training={"precision": precision, "steps": 3, "clip_norm": 1.0})
        assert {tensor.dtype for tensor in best(run.folder).values()} == {dtype}
        assert all(math.isfinite(result.loss) for result in run.results.values())

    def test_bfloat16_computes_in_it(self, train, records):
        losses = {}
        for precision in ("float32", "bfloat16"):
            run = train(run={"name": precision}, training={"precision": precision, "steps": 1}, optimizer=SGD)
            losses[precision] = records(run.folder, "step")[0]["losses"]["distance"]
        assert losses["bfloat16"] != losses["float32"]
        assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.03)

    @pytest.mark.parametrize("strategy", ["fixed", "gradnorm"])
    def test_losses_of_several_dtypes_go_together(self, train, toy, strategy):
        class Half(toy.Distance):
            def loss(self, output, target):
                return output.abs().mean()  # bfloat16 under autocast, as nothing here promotes it

        run = train(
            tasks_given={"half": Half},
            tasks=["side", "half"],
            strategy=strategy,
            training={"precision": "bfloat16", "steps": 3},
        )
        assert run.steps == 3


class TestLearningRate:
    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            ("constant", [1] * 8),
            ({"name": "linear"}, [1 - i / 8 for i in range(8)]),
            ({"name": "linear", "final": 0.5}, [1 - 0.5 * i / 8 for i in range(8)]),
            ({"name": "cosine"}, [(1 + math.cos(math.pi * i / 8)) / 2 for i in range(8)]),
            ({"name": "step", "milestones": [0.25, 0.75], "gamma": 0.5}, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]),
            ({"name": "constant", "warmup": 0.5}, [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]),
            ({"name": "linear", "warmup": 0.25}, [1 / 3, 2 / 3, *(1 - i / 6 for i in range(6))]),
        ],
    )
    def test_is_recorded(self, train, records, schedule, expected):
        run = train(schedule=schedule, training={"steps": 8}, optimizer=SGD)
        rates = [record["learning_rate"] for record in records(run.folder, "step")]
        assert rates == pytest.approx([0.1 * factor for factor in expected])

    def test_is_the_one_that_steps_are_taken_with(self, train):
        settings = {"optimizer": SGD, "checkpoints": LAST}
        stopped = train(
            run={"name": "stopped"},
            schedule={"name": "step", "milestones": [0.5], "gamma": 1e-12},
            training={"steps": 6},
            **settings,
        )
        half = train(run={"name": "half"}, training={"steps": 3}, **settings)
        assert_close(best(stopped.folder), best(half.folder))

    def test_of_the_strategy_changes_too(self, train):
        """With a learning rate that vanishes at once, the uncertainties stay where they were after the first step."""
        scales = []
        for steps in (2, 6):
            run = train(
                run={"name": f"of-{steps}"},
                strategy={"name": "uncertainty", "lr": 0.5},
                schedule={"name": "step", "milestones": [1 / steps], "gamma": 1e-9},
                training={"steps": steps},
            )
            state = checkpoint.load_state(run.folder / "checkpoints" / f"step-{steps:06d}")
            scales.append(torch.stack([v for k, v in state["strategy"].items() if k.startswith("log_scales")]))
        assert scales[0].abs().min() > 0.1
        torch.testing.assert_close(scales[0], scales[1])


class TestWeights:
    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
    def test_weighted_loss_is_weight_times_loss(self, train, records, strategy):
        tasks = [{"name": "side", "weight": 0.5}, {"name": "distance", "weight": 3.0}]
        run = train(strategy=strategy, tasks=tasks)
        steps = records(run.folder, "step")
        assert len(steps) == 12
        for record in steps:
            for label, loss in record["losses"].items():
                assert record["weighted_losses"][label] == record["weights"][label] * loss
        assert set(steps[0]["gradient_norms"]) == ({"side", "distance"} if strategy == "gradnorm" else set())

    def test_of_a_task_is_the_alpha_of_fixed(self, train, weights, records):
        by_task = train(run={"name": "a"}, tasks=["side", {"name": "distance", "weight": 0.25}], checkpoints=LAST)
        by_alpha = train(run={"name": "b"}, strategy={"name": "fixed", "alpha": [1.0, 0.25]}, checkpoints=LAST)
        plain = train(run={"name": "c"}, checkpoints=LAST)
        assert weights(by_task.folder) == weights(by_alpha.folder) != weights(plain.folder)
        assert records(by_task.folder, "step") == records(by_alpha.folder, "step")

    def test_of_a_task_is_a_factor_on_the_strategys_own(self, train, records):
        run = train(strategy="gradnorm", tasks=["side", {"name": "distance", "weight": 0.25}])
        assert records(run.folder, "step")[0]["weights"] == {"side": 1, "distance": 0.25}


class TestMissingLabels:
    def test_are_masked_for_their_task_alone(self, train, toy):
        seen = {"side": [], "distance": []}

        class Side(toy.Side):
            def loss(self, output, target):
                seen["side"].append(target)
                return super().loss(output, target)

        class Distance(toy.Distance):
            def loss(self, output, target):
                seen["distance"].append(target)
                return super().loss(output, target)

        tasks = [{"name": name, "options": {"gaps": 3}} for name in ("side", "distance")]
        run = train(
            tasks_given={"side": Side, "distance": Distance},
            tasks=tasks,
            training={"steps": 1, "batch_size": 120},
            evaluation={"batch_size": 1000},
        )
        # The probe (eight labelled rows for each task), a training step, validation, the test.
        assert [len(target) for target in seen["side"]] == [8, 80, 22, 30]
        assert [len(target) for target in seen["distance"]] == [8, 80, 22, 30]
        assert set(torch.cat(seen["side"]).tolist()) == {0, 1}
        assert torch.cat(seen["distance"]).isfinite().all()
        assert [result.rows for result in run.results.values()] == [30, 30]

    def test_in_part_of_a_row_of_numbers_mask_the_row(self, train, toy):
        class Pairs(toy.Points):
            def splits(self):
                return {
                    name: mtlkit.Split(
                        split.inputs, {"distance": torch.cat([split.targets["distance"], split.inputs[:, :1]], 1)}
                    )
                    for name, split in super().splits().items()
                }

        class Pair(toy.Distance):
            def source(self):
                return Pairs(gaps=3)

            def head(self, features):
                return mtlkit.heads.Linear(features, 2)

            def metrics(self):
                return {"mae": super().metrics()["mae"]}

        run = train(tasks_given={"pair": Pair}, tasks=["pair"])
        assert run.results["pair"].rows == 30

    @pytest.mark.parametrize("optimizer", ["adam", "adagrad", {"name": "sgd", "lr": 0.01, "momentum": 0.9}])
    def test_a_task_that_comes_later_is_trained_from_then_on(self, train, toy, records, optimizer):
        class Rare(toy.Points):
            def splits(self):
                splits = dict(super().splits())
                distance = splits["train"].targets["distance"].clone()
                distance[1:] = torch.nan
                splits["train"] = mtlkit.Split(
                    splits["train"].inputs, {"side": splits["train"].targets["side"], "distance": distance}
                )
                return splits

        class Distance(toy.Distance):
            def source(self):
                return Rare()

        class Side(toy.Side):
            def source(self):
                return Rare()

        run = train(
            tasks_given={"distance": Distance, "side": Side},
            optimizer=optimizer,
            training={"steps": 20},
            run={"seed": 1},
        )
        present = [set(record["losses"]) for record in records(run.folder, "step")]
        assert present[0] == {"side"}
        assert {"side", "distance"} in present

    def test_may_be_marked_by_another_number(self, train, toy):
        class Marked(toy.Points):
            def splits(self):
                return {
                    name: mtlkit.Split(split.inputs, {"side": split.targets["side"].where(split.inputs[:, 0] > 0, 7)})
                    for name, split in super().splits().items()
                }

        class Side(toy.Side):
            missing = 7

            def source(self):
                return Marked()

        run = train(tasks_given={"side": Side}, tasks=["side"])
        assert run.results["side"].rows == int((Marked().splits()["test"].inputs[:, 0] > 0).sum())

    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", "gradnorm"])
    def test_in_the_whole_batch_make_the_task_absent(self, train, records, toy, strategy):
        class Rare(toy.Points):
            """Every eighth point has a side."""

            def splits(self):
                splits = super().splits()
                side = splits["train"].targets["side"]
                side[torch.arange(len(side)) % 8 > 0] = -100
                return splits

        class RareSide(toy.Side):
            def source(self):
                return Rare()

        class RareDistance(toy.Distance):
            def source(self):
                return Rare()

        run = train(
            tasks_given={"side": RareSide, "distance": RareDistance},
            tasks=["distance", "side", {"name": "distance", "label": "other"}],
            strategy=strategy,
            training={"batch_size": 4, "steps": 16, "steps_per_epoch": 1},
            evaluation={"every": 99},
            checkpoints={"keep": 99},
        )
        steps = records(run.folder, "step")
        present = ["side" in step["losses"] for step in steps]
        assert {True, False} == set(present)
        before = None
        for step, is_present in zip(steps, present, strict=True):
            expected = ["distance", "side", "other"] if is_present else ["distance", "other"]
            for part in ("losses", "weights", "weighted_losses"):
                assert list(step[part]) == expected
            state = checkpoint.load_state(run.folder / "checkpoints" / f"step-{step['step']:06d}")["strategy"]
            if strategy == "gradnorm":
                after = {name: state[name][1] for name in ("task_weights", "initial", "descent.steps", "descent.mean")}
                assert before is None or is_present or torch.equal(*map(_stack, (before, after)))
                before = after
        if strategy == "gradnorm":
            assert before["descent.steps"] == sum(present)

    def test_of_every_task_in_a_batch_make_a_step_in_which_nothing_moves(self, train, toy, records):
        class Rare(toy.Points):
            def splits(self):
                splits = super().splits()
                splits["train"].targets["side"][5:] = -100
                return splits

        class Side(toy.Side):
            def source(self):
                return Rare()

        run = train(
            tasks_given={"side": Side},
            tasks=["side"],
            strategy="gradnorm",
            optimizer={"name": "adamw", "lr": 0.1, "weight_decay": 0.5},
            training={"batch_size": 4, "steps": 30, "steps_per_epoch": 1},
            checkpoints={"keep": 99},
        )
        steps = records(run.folder, "step")
        empty = [step["step"] for step in steps if step["rows"] == {"side": 0}]
        assert 15 < len(empty) < 30
        assert all(step["losses"] == step["weights"] == {} for step in steps if step["step"] in empty)
        folders = {step["step"]: run.folder / "checkpoints" / f"step-{step['step']:06d}" for step in steps}
        for step in range(2, 31):
            files = [
                [(folders[each] / f"{part}.safetensors").read_bytes() for part in ("weights", "state")]
                for each in (step - 1, step)
            ]
            assert (files[0] == files[1]) == (step in empty)

    def test_of_all_training_rows(self, train, configure):
        with pytest.raises(DataError, match=r"Task 'side' has no labelled training row .*toy-plugin 1\.2\.3") as caught:
            train(tasks=["distance", {"name": "side", "options": {"gaps": 1}}])
        assert caught.value.exit_code == 4

    def test_of_all_validation_rows_leave_the_choice_to_the_other_tasks(self, train, records, toy):
        class Unseen(toy.Points):
            def splits(self):
                splits = super().splits()
                splits["validation"].targets["side"][:] = -100
                return splits

        class Side(toy.Side):
            def source(self):
                return Unseen()

        run = train(
            tasks_given={"side": Side},
            tasks=["side", "distance"],
            optimizer={"name": "adam", "lr": 0.5},
            training={"steps": 40},
            checkpoints={"every": 99},
        )
        validations = [each for each in records(run.folder, "evaluation") if each["split"] == "validation"]
        losses = {each["step"]: each["tasks"]["distance"]["loss"] for each in validations}
        assert run.best_step == min(losses, key=losses.get)
        assert all(each["tasks"]["side"]["rows"] == 0 for each in validations)


def _stack(values):
    return torch.stack([value.double().nan_to_num(-1) for value in values.values()])


class TestDiagnostics:
    @pytest.mark.parametrize("over", ["last-shared", "features", "parameters"])
    def test_a_strategy_that_needs_no_gradients_is_sampled_where_it_is_asked_for(self, train, records, over):
        run = train(diagnostics={"every": 5, "over": over}, strategy="uncertainty")
        samples = records(run.folder, "gradients")
        assert [sample["step"] for sample in samples] == [5, 10]
        for sample in samples:
            assert sample["over"] == over
            assert set(sample["norms"]) == {"side", "distance"}
            assert all(norm > 0 for norm in sample["norms"].values())
            cosine = sample["cosines"]["side"]["distance"]
            assert -1 <= cosine <= 1
            assert sample["cosines"] == {"side": {"distance": cosine}}
            assert sample["conflicts"] == (1.0 if cosine < 0 else 0.0)

    def test_a_strategy_that_needs_gradients_says_where(self, train, records):
        run = train(diagnostics={"every": 6, "over": "parameters"}, strategy="gradnorm")
        samples = records(run.folder, "gradients")
        steps = {record["step"]: record for record in records(run.folder, "step")}
        assert [sample["over"] for sample in samples] == ["last-shared"] * 2
        assert all(sample["norms"] == steps[sample["step"]]["gradient_norms"] for sample in samples)

    @pytest.mark.parametrize("strategy", ["fixed", "gradnorm"])
    def test_sampling_leaves_the_run_as_it_was(self, train, records, strategy):
        settings = {"strategy": strategy, "training": {"precision": "float64"}}
        plain = records(train(run={"name": "plain"}, **settings).folder, "step")
        sampled = records(train(diagnostics={"every": 2}, **settings).folder, "step")
        for one, other in zip(plain, sampled, strict=True):
            assert other["losses"] == pytest.approx(one["losses"], rel=1e-10)
            assert other["weights"] == pytest.approx(one["weights"], rel=1e-10)

    def test_nothing_is_sampled_unless_it_is_asked_for(self, train, records):
        assert records(train().folder, "gradients") == []

    def test_one_task_has_no_pairs(self, train, records):
        run = train(tasks=["side"], diagnostics={"every": 12})
        (sample,) = records(run.folder, "gradients")
        assert sample["cosines"] == {}
        assert sample["conflicts"] is None
