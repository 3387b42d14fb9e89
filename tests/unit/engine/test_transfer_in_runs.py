"""Runs that start from another run's encoder, freeze parts of it, thaw them, and train it at rates by depth."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import mtlkit
from mtlkit.builtins import BUILTINS
from mtlkit.engine import events
from mtlkit.errors import CheckpointError, ConfigError, Stopped
from mtlkit.yamlfile import parse

ENCODER = {"name": "mlp", "layers": [8, 7, 6]}
INSIDE = "architecture.encoder."


def tensors(folder, step=None):
    """Return a run's best weights, or those at a step."""
    place = folder / "best" if step is None else folder / "checkpoints" / f"step-{step:06d}"
    return load_file(place / "weights.safetensors")


def moved(before, after, name):
    return not torch.equal(before[name], after[name])


def stages(*numbers):
    """Return the names of the parameters of some stages of the encoder."""
    linear = {0: "layers.0.1", 1: "layers.1.0", 2: "layers.2.0"}
    return [f"{INSIDE}{linear[number]}.{kind}" for number in numbers for kind in ("weight", "bias")]


@pytest.fixture(name="first")
def fixture_first(train):
    """A finished run's folder."""
    return train(run={"name": "first", "seed": 5}, encoder=ENCODER).folder


@pytest.fixture(name="initial")
def fixture_initial(configure, registry_with):
    """Return a function that builds a run's weights before the first step."""
    return lambda **settings: mtlkit.build(configure(**settings), registry=registry_with()).model.state_dict()


@pytest.fixture(name="refusal")
def fixture_refusal(configure, registry_with):
    """Return a function that gives the one problem of a configuration whose transfer is given as text."""

    def refusal(transfer, **settings):
        plain = configure(**{"encoder": ENCODER} | settings)
        document = parse(f"{json.dumps(plain)[:-1]},\ntransfer: {transfer}\n}}", "run.yaml")
        with pytest.raises(ConfigError) as caught:
            mtlkit.train(document, registry=registry_with())
        (problem,) = caught.value.problems
        return problem

    return refusal


class TestPretrained:
    def test_a_run_starts_from_the_encoder_of_another(self, train, first):
        run = train(encoder=ENCODER, transfer={"pretrained": str(first), "freeze": 3})
        before, after = tensors(first), tensors(run.folder)
        inside = [name for name in before if name.startswith(INSIDE)]
        assert len(inside) == 6
        assert not any(moved(before, after, name) for name in inside)
        assert all(moved(before, after, name) for name in before if name not in inside)

    def test_or_from_a_file_of_nothing_else(self, train, first, tmp_path):
        weights = {n.removeprefix(INSIDE): t for n, t in tensors(first).items() if n.startswith(INSIDE)}
        save_file(weights, tmp_path / "encoder.safetensors")
        runs = [
            train(run={"name": f"of-{path.name}"}, encoder=ENCODER, transfer={"pretrained": str(path)})
            for path in (first, first / "best", tmp_path / "encoder.safetensors")
        ]
        assert len({(run.folder / "best" / "weights.safetensors").read_bytes() for run in runs}) == 1
        assert moved(tensors(first), tensors(runs[0].folder), stages(0)[0])

    def test_each_of_several_encoders_starts_from_its_own_or_from_the_only_one(self, train, first):
        both = {"encoder": ENCODER, "architecture": "cross-stitch"}
        one = train(run={"name": "one"}, **both, transfer={"pretrained": str(first), "freeze": ["*"]})
        weights = tensors(one.folder)
        for name, tensor in tensors(first).items():
            if name.startswith(INSIDE):
                for number in (0, 1):
                    own = name.replace("encoder", f"encoders.{number}", 1)
                    assert torch.equal(weights[own], tensor)
        apart = train(run={"name": "apart"}, **both)
        again = train(run={"name": "again"}, **both, transfer={"pretrained": str(apart.folder), "freeze": ["*"]})
        before, after = tensors(apart.folder), tensors(again.folder)
        inside = [name for name in before if ".encoders." in name]
        ours, theirs = (before[f"architecture.encoders.{number}.layers.0.1.weight"] for number in (0, 1))
        assert not torch.equal(ours, theirs)
        assert not any(moved(before, after, name) for name in inside)

    def test_what_was_read_off_the_training_rows_comes_with_the_weights(self, train, toy):
        class Shifted(toy.Points):
            def splits(self):
                return {name: mtlkit.Split(9 + split.inputs, split.targets) for name, split in super().splits().items()}

        class Side(toy.Side):
            def source(self):
                return Shifted()

        tabular = {"encoder": {"name": "tabular", "width": 6}, "tasks": ["side"]}
        first = train(run={"name": "first"}, tasks_given={"side": Side}, **tabular)
        again = train(run={"name": "again"}, **tabular, transfer={"pretrained": str(first.folder)})
        mean = f"{INSIDE}columns.mean"
        assert tensors(first.folder)[mean].mean() > 8
        assert torch.equal(tensors(again.folder)[mean], tensors(first.folder)[mean])

    def test_the_run_says_where_it_began(self, train, first):
        run = train(encoder=ENCODER, transfer={"pretrained": str(first)})
        environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
        manifest = json.loads((first / "best" / "manifest.json").read_text(encoding="utf-8"))
        assert environment["pretrained"] == {
            "path": str(first / "best" / "weights.safetensors"),
            "sha256": manifest["files"]["weights.safetensors"]["sha256"],
        }

    def test_a_path_is_relative_to_the_configuration_and_kept_whole(self, first, configure, registry_with, monkeypatch):
        config = configure(encoder=ENCODER, transfer={"pretrained": "first"})
        (first.parent / "run.yaml").write_text(json.dumps(config), encoding="utf-8")
        (first.parent / "elsewhere").mkdir()
        monkeypatch.chdir(first.parent / "elsewhere")
        run = mtlkit.train("../run.yaml", registry=registry_with())
        assert f"pretrained: {first.resolve()}\n" in (run.folder / "config.yaml").read_text(encoding="utf-8")

    def test_weights_that_do_not_fit_are_told_with_their_place(self, refusal, first, tmp_path):
        problem = refusal(f"{{pretrained: {first}}}", encoder={"name": "mlp", "layers": [8, 7, 5]})
        assert problem.what == (
            f"The weights in {first} do not fit the encoder MLP: of another shape: 2 of 6, layers.2.0.weight ((6, 7) "
            "there, (5, 7) here), layers.2.0.bias ((6,) there, (5,) here)"
        )
        assert (problem.path, problem.location) == ("transfer.pretrained", "run.yaml:2:24")
        assert problem.remedy.endswith("Or load the 4 that fit: transfer.strict=false.")
        assert not (tmp_path / "toy").exists()

    def test_weights_of_another_encoder_altogether(self, refusal, first):
        problem = refusal(f"{{pretrained: {first}}}", encoder={"name": "tabular", "width": 6})
        assert "do not fit the encoder Tabular: missing there: " in problem.what
        problem = refusal(f"{{pretrained: {first}, strict: false}}", encoder={"name": "vit"}, tasks=["side"])
        assert problem.location

    def test_a_prefix_that_is_not_there(self, refusal, first):
        problem = refusal(f"{{pretrained: {first}, prefix: encoder.}}")
        assert (
            "none of the encoder's tensors is there by the prefix 'encoder.': it has layers.0.1.weight" in problem.what
        )
        assert (problem.path, problem.location) == ("transfer.prefix", f"run.yaml:2:{len(str(first)) + 34}")

    def test_those_that_fit_are_loaded_where_not_all_need(self, train, first):
        wider = {"name": "mlp", "layers": [8, 7, 5]}
        settings = {"pretrained": str(first), "strict": False, "freeze": 2}
        with pytest.warns(
            UserWarning, match=r"4 tensors of architecture\.encoder were loaded .*of another shape: 2 of 6"
        ):
            run = train(encoder=wider, transfer=settings)
        before, after = tensors(first), tensors(run.folder)
        assert not any(moved(before, after, name) for name in stages(0, 1))


class TestDamage:
    def test_of_a_run_is_found(self, train, first):
        weights = first / "best" / "weights.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged: its SHA-256 is not the one"):
            train(encoder=ENCODER, transfer={"pretrained": str(first)})
        assert not (first.parent / "toy").exists()

    @pytest.mark.parametrize("damage", [lambda content: content[:100], lambda content: b"", lambda content: b"x" * 500])
    def test_of_a_file_is_found(self, train, first, tmp_path, damage):
        path = tmp_path / "cut.safetensors"
        path.write_bytes(damage((first / "best" / "weights.safetensors").read_bytes()))
        with pytest.raises(
            CheckpointError, match=r"cut\.safetensors cannot be read as a file of safetensors: .*It is named at"
        ):
            train(encoder=ENCODER, transfer={"pretrained": str(path)})

    def test_a_file_that_is_not_there(self, refusal, tmp_path):
        problem = refusal(f"{{pretrained: {tmp_path}/none}}")
        assert problem.what == f"There is no file and no run {tmp_path}/none"
        assert problem.location == "run.yaml:2:24"

    def test_a_pickle_is_not_read(self, refusal, tmp_path):
        (tmp_path / "model.pt").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        problem = refusal(f"{{pretrained: {tmp_path}/model.pt}}")
        assert "is a pickle by its name, and a pickle can run code" in problem.what
        assert "safetensors.torch.save_file(torch.load(path, weights_only=True)" in problem.remedy

    def test_a_folder_that_is_no_run(self, train, tmp_path):
        with pytest.raises(CheckpointError, match=r"is no run folder: it has no config\.yaml"):
            train(transfer={"pretrained": str(tmp_path)})

    def test_a_run_that_has_not_come_to_best_weights(self, refusal, first):
        shutil.rmtree(first / "best")
        assert "has no best weights yet" in refusal(f"{{pretrained: {first}}}").what


class TestWithoutTheFile:
    """Once a run has weights of its own, those that it began with are not needed."""

    def test_a_run_is_evaluated(self, train, first, registry_with):
        run = train(encoder=ENCODER, transfer={"pretrained": str(first)})
        shutil.rmtree(first)
        _, results = mtlkit.evaluate(run.folder, registry=registry_with())
        assert results == run.results

    def test_a_run_goes_on(self, train, first):
        settings = {"encoder": ENCODER, "transfer": {"pretrained": str(first)}}
        whole = train(run={"name": "whole"}, **settings)
        stop(train, 5, **settings)
        shutil.rmtree(first)
        resumed = train(resume=True, **settings)
        assert outcome(resumed.folder) == outcome(whole.folder)

    def test_a_run_that_was_not_saved_once_needs_it(self, train, first):
        settings = {"encoder": ENCODER, "transfer": {"pretrained": str(first)}}
        stop(train, 5, **settings)
        shutil.rmtree(first.parent / "toy" / "checkpoints")
        shutil.rmtree(first)
        with pytest.raises(ConfigError, match="There is no file and no run"):
            train(resume=True, **settings)


def stop(train, step, **settings):
    """Start a run and stop it after a step."""

    def listen(event):
        if isinstance(event, events.StepFinished) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        train(listeners=[listen], **settings)


def outcome(folder):
    """Return what must not depend on whether a run was stopped."""
    (*_, newest) = sorted((folder / "checkpoints").iterdir())
    paths = [folder / "metrics.jsonl", folder / "best" / "weights.safetensors", newest / "state.safetensors"]
    return [path.read_bytes() for path in paths] + [(newest / "weights.safetensors").read_bytes()]


OVER_GRADIENTS = ["gradnorm", "mgda", "mgda-ub", "moco", "graddrop"]


class TestFreezing:
    @pytest.mark.parametrize("strategy", ["fixed", "uncertainty", *OVER_GRADIENTS])
    def test_what_is_frozen_stays_bit_for_bit_and_the_rest_is_trained(self, train, initial, strategy):
        before = initial(encoder=ENCODER)
        run = train(encoder=ENCODER, strategy=strategy, transfer={"freeze": [0, "layers.1.0.bias"]})
        after = tensors(run.folder)
        frozen = [*stages(0), stages(1)[1]]
        assert sorted(name for name in before if not moved(before, after, name)) == sorted(frozen)

    @pytest.mark.parametrize(
        ("strategy", "place"),
        [
            ("gradnorm", "last layer"),
            ("mgda", "parameters"),
            ("mgda-ub", "features"),
            ("moco", "parameters"),
            ("graddrop", "features"),
        ],
    )
    def test_a_strategy_that_has_nothing_to_measure_is_refused_before_the_run(self, refusal, tmp_path, strategy, place):
        for transfer, path in (
            ("{freeze: 3}", "freeze"),
            ("{freeze: ['*']}", "freeze"),
            ("{unfreeze: {}}", "unfreeze"),
        ):
            problem = refusal(transfer, strategy=strategy)
            told = (
                f"The strategy '{strategy}' compares the tasks' gradients at the {place} that they share, and nothing"
            )
            assert problem.what.startswith(told)
            assert problem.path == f"transfer.{path}"
            assert problem.location.startswith("run.yaml:2:")
        assert not (tmp_path / "toy").exists()

    def test_so_is_a_diagnosis(self, refusal):
        problem = refusal("{freeze: 3}", diagnostics={"every": 2})
        assert problem.what.startswith("diagnostics compares the tasks' gradients at the last layer that they share")

    def test_and_an_encoder_that_has_nothing_to_train(self, refusal):
        problem = refusal("{}", encoder="identity", strategy="gradnorm")
        assert (problem.path, problem.location.partition(":")[0]) == ("strategy", "run.yaml")
        assert problem.remedy.startswith("Choose a strategy that needs no more than the losses")

    def test_one_that_needs_the_losses_alone_trains_the_heads(self, train):
        for name, transfer in (("all", {"freeze": 3}), ("none", {"freeze": 0})):
            run = train(run={"name": name}, encoder=ENCODER, transfer=transfer)
            assert run.steps == 12
        identity = train(encoder="identity")
        assert [name for name in tensors(identity.folder) if not name.startswith("heads.")] == []

    @pytest.mark.parametrize(
        "architecture",
        # task-embedding needs an encoder with norms of a certain kind
        [name for kind, name, _ in BUILTINS if kind == "architectures" and name != "task-embedding"],
    )
    def test_of_each_encoder_of_an_architecture(self, train, first, architecture):
        run = train(
            encoder=ENCODER,
            architecture=architecture,
            transfer={"pretrained": str(first), "freeze": 2, "unfreeze": {"every": 1}, "layer_decay": 0.5},
            training={"steps": 5},
            checkpoints={"keep": 9},
        )
        start, (before, after) = tensors(first), (tensors(run.folder, step) for step in (4, 5))
        (stage,) = {name.removeprefix(INSIDE) for name in stages(0) if name.endswith("weight")}
        found = [name for name in before if name.endswith(stage) and before[name].shape == start[INSIDE + stage].shape]
        assert found
        for name in found:
            assert torch.equal(before[name], start[INSIDE + stage])
            assert torch.equal(after[name], start[INSIDE + stage])
            second = name.replace("layers.0.1", "layers.1.0")  # it is thawed after step 4
            assert torch.equal(before[second], start[f"{INSIDE}layers.1.0.weight"])
            assert moved(before, after, second)

    def test_statistics_of_frozen_normalisation_do_not_drift(self, train, toy):
        class Image(toy.Points):
            def splits(self):
                return {
                    name: mtlkit.Split(split.inputs.reshape(-1, 1, 2, 3), split.targets)
                    for name, split in super().splits().items()
                }

        class Side(toy.Side):
            def source(self):
                return Image()

        encoder = {"name": "cnn", "channels": [2, 3], "layers": [4], "norm": "batch"}
        run = train(tasks_given={"side": Side}, tasks=["side"], encoder=encoder, transfer={"freeze": 1})
        weights = tensors(run.folder)
        seen = [int(weights[f"{INSIDE}convolutions.{number}.1.num_batches_tracked"]) for number in (0, 1)]
        assert seen == [0, json.loads((run.folder / "done.json").read_text(encoding="utf-8"))["best_step"]]
        assert weights[f"{INSIDE}convolutions.0.1.running_mean"].eq(0).all()

    @pytest.mark.parametrize(
        ("transfer", "path", "column", "what"),
        [
            ("{freeze: 4}", "freeze", 20, "MLP has 3 stages, numbered from 0 to 2, and there is no stage 3"),
            ("{freeze: [0, 7]}", "freeze[1]", 24, "MLP has 3 stages, numbered from 0 to 2, and there is no stage 7"),
            (
                "{freeze: [0, layer]}",
                "freeze[1]",
                24,
                "MLP has no parameter by the name 'layer'. Did you mean 'layers'",
            ),
        ],
    )
    def test_what_there_is_not_is_told_with_its_place(self, refusal, transfer, path, column, what):
        problem = refusal(transfer)
        assert problem.what.startswith(what)
        assert problem.path == f"transfer.{path}"
        assert problem.location == f"run.yaml:2:{column}"

    def test_an_encoder_without_stages_can_be_frozen_by_names_alone(self, train, configure, registry_with):
        class Plain(mtlkit.encoders.MLP):
            """No chain."""

            def stages(self):
                return ()

            def forward(self, inputs):
                for layer in self.layers:
                    inputs = layer(inputs)
                return inputs

        registry = registry_with(plain=Plain)
        for transfer in ({"freeze": 1}, {"unfreeze": {"every": 1}}, {"layer_decay": 0.5}):
            with pytest.raises(ConfigError, match="Plain does not say of which stages it is made at transfer"):
                mtlkit.train(configure(encoder="plain", transfer=transfer), registry=registry)
        run = mtlkit.train(configure(encoder="plain", transfer={"freeze": ["layers.0"]}), registry=registry)
        assert run.steps == 12


class TestThawing:
    @pytest.mark.parametrize(
        ("strategy", "optimizer"),
        [
            ("fixed", "adam"),
            ("mgda", "adam"),
            ("gradnorm", "adam"),
            ("db-mtl", {"name": "sgd", "lr": 0.01, "weight_decay": 0.1}),
            ("moco", {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
        ],
    )
    def test_goes_from_the_last_frozen_stage_back(self, train, strategy, optimizer):
        run = train(
            encoder=ENCODER,
            strategy=strategy,
            optimizer=optimizer,
            transfer={"freeze": 2, "unfreeze": {"every": 2}},
            training={"steps": 20},
            checkpoints={"keep": 9},
        )
        # Epochs of 4 steps: stage 1 is thawed after step 8, stage 0 after step 16.
        weights = {step: tensors(run.folder, step) for step in (4, 8, 12, 16, 20)}
        for number, thawed_at in ((2, 0), (1, 8), (0, 16)):
            for name in stages(number):
                for before, after in ((4, 8), (8, 12), (12, 16), (16, 20)):
                    assert moved(weights[before], weights[after], name) == (before >= thawed_at), (name, before)

    def test_of_all_stages_begins_with_the_heads(self, train):
        settings = {"encoder": ENCODER, "training": {"steps": 16}, "checkpoints": {"keep": 9}}
        run = train(transfer={"unfreeze": {}}, **settings)
        weights = {step: tensors(run.folder, step) for step in (4, 8, 12, 16)}
        for before, after, thawed in ((4, 8, 1), (8, 12, 2), (12, 16, 3)):
            names = [
                name for name in weights[4] if name.startswith(INSIDE) and moved(weights[before], weights[after], name)
            ]
            assert sorted(names) == sorted(stages(*range(3 - thawed, 3)))
        assert all(moved(weights[4], weights[8], name) for name in weights[4] if name.startswith("heads."))

    @pytest.mark.parametrize(("strategy", "step"), [("fixed", 3), ("fixed", 8), ("moco", 9)])
    def test_goes_on_bit_for_bit(self, train, strategy, step):
        settings = {
            "encoder": ENCODER | {"dropout": 0.2},
            "strategy": strategy,
            "schedule": {"name": "cosine", "warmup": 0.2},
            "transfer": {"freeze": 2, "unfreeze": {"every": 2}, "layer_decay": 0.7},
            "training": {"steps": 18},
        }
        whole = train(run={"name": "whole"}, **settings)
        stop(train, step, **settings)
        assert outcome(train(resume=True, **settings).folder) == outcome(whole.folder)


class TestLayerDecay:
    def test_a_step_is_shorter_the_nearer_a_stage_is_to_the_rows(self, train, initial):
        settings = {"encoder": ENCODER, "training": {"steps": 1}, "optimizer": {"name": "sgd", "lr": 0.1}}
        start = initial(**settings)
        plain = tensors(train(run={"name": "plain"}, **settings).folder)
        layered = tensors(train(run={"name": "layered"}, transfer={"layer_decay": 0.5}, **settings).folder)
        for name in start:
            number = next((number for number in range(3) if name in stages(number)), 3)
            expected = 0.5 ** (3 - number) * (plain[name] - start[name])
            torch.testing.assert_close(layered[name] - start[name], expected, rtol=1e-3, atol=1e-7)

    def test_goes_with_a_schedule_whose_rate_is_that_of_the_heads(self, train, records):
        settings = {"schedule": {"name": "linear"}, "optimizer": {"name": "sgd", "lr": 0.1}, "encoder": ENCODER}
        rates = []
        for name, decay in (("plain", 1.0), ("layered", 0.5)):
            run = train(run={"name": name}, transfer={"layer_decay": decay}, **settings)
            rates.append([record["learning_rate"] for record in records(run.folder, "step")])
        assert rates[0] == rates[1]

    def test_an_optimizer_has_a_group_for_each_stage(self, configure, registry_with):
        built = mtlkit.build(
            configure(encoder=ENCODER, transfer={"layer_decay": 0.5}, strategy="uncertainty"), registry=registry_with()
        )
        rates = [group["initial_lr"] for group in built.optimizer.param_groups]
        assert rates == [0.02, 0.01, 0.005, 0.0025, 0.02]  # heads, stages 2, 1 and 0, and the strategy
        plain = mtlkit.build(configure(encoder=ENCODER), registry=registry_with())
        assert len(plain.optimizer.param_groups) == 1
