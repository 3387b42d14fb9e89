"""What a person sees of a run that comes upon values that are NaN or infinite."""

from __future__ import annotations

import json

import pytest

ODD = """\
import math


import torch
from torch.nn import functional as F
from torchmetrics import MeanSquaredError

import mtlkit
from mtlkit import heads


class Rows(mtlkit.Source):
    def splits(self):
        inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
        targets = {"sum": inputs.sum(1, keepdim=True), "first": inputs[:, :1].clone()}
        targets["sum"][7] = math.inf
        held = mtlkit.Split(inputs[:6], {name: column[:6] for name, column in targets.items()})
        return {"train": mtlkit.Split(inputs, targets), "validation": held, "test": held}


class Odd(mtlkit.Task):
    \"\"\"Learn a column, of which one row may be infinite.\"\"\"

    def __init__(self, *, column: str = "sum") -> None:
        self.target = column

    def source(self):
        return Rows()

    def head(self, features):
        return heads.Linear(features, 1)

    def loss(self, output, target):
        return F.mse_loss(output, target)

    def metrics(self):
        return {"mse": MeanSquaredError()}


odd = mtlkit.plugin(Odd)
"""
RUN = """\
run: {name: odd}
tasks:
  - name: odd
  - {name: odd, label: first, options: {column: first}}
encoder: {name: mlp, layers: [4]}
training: {steps: 8, batch_size: 16, device: cpu, threads: 1}
"""


@pytest.fixture(name="given")
def fixture_given(folder, request):
    """The options that give the plugin, in a file of its own: one process imports no two of a name."""
    name = f"odd_{request.node.name}.py"
    (folder / name).write_text(ODD, encoding="utf-8")
    (folder / "odd.yaml").write_text(RUN, encoding="utf-8")
    return ["--plugin", name]


def test_an_error_says_what_and_how_to_go_on(mtlkit, given):
    done = mtlkit("train", "odd.yaml", *given)
    assert done.exit_code == 6
    assert "Traceback" not in done.output
    told = " ".join(done.stderr.split())
    for part in (
        "Error: Non-finite loss of 'odd' (inf) in row ",
        "(row 7 of the training split), from the target on, in step ",
        f"(the file {given[1]}, sha256:",
        "mtlkit check looks for them.",
        "mtlkit resume runs/odd training.non_finite=skip-task",
    ):
        assert part in told
    again = mtlkit("resume", "runs/odd", *given)
    assert again.exit_code == 6  # it comes to the same step
    gone_on = mtlkit("resume", "runs/odd", "training.non_finite=skip-task", *given)
    assert gone_on.exit_code == 0
    assert "non-finite loss of 'odd' (inf) in row " in gone_on.stderr
    assert ": left out" in gone_on.stderr
    assert "Steps in which 'odd' had values that were NaN or infinite: 2." in gone_on.stderr
    assert "skipped" not in gone_on.stderr


def test_a_program_is_told_the_parts(mtlkit, given):
    error = json.loads(mtlkit("train", "odd.yaml", *given, "--json").stdout)["error"]
    assert (error["kind"], error["exit_code"], error["what"], error["tasks"]) == ("NonFiniteError", 6, "loss", ["odd"])
    assert error["found"][0]["split_rows"] == [7]
    options = ["run.name=skips", "training.non_finite=skip-step", *given]
    result = json.loads(mtlkit("train", "odd.yaml", *options, "--json").stdout)
    assert (result["skipped"], result["non_finite"]) == (2, {"odd": 2})
    shown = mtlkit("runs", "show", "runs/skips")
    assert "Steps that were skipped: 2." in shown.stdout
    assert "Steps in which 'odd' had values that were NaN or infinite: 2." in shown.stdout


def test_the_limit_is_told_of(mtlkit, given):
    options = ["training.non_finite=skip-step", "training.non_finite_limit=1", "training.batch_size=64", *given]
    done = mtlkit("train", "odd.yaml", *options)
    assert done.exit_code == 6
    assert "There were 2 such steps in a row, and training.non_finite_limit is 1." in " ".join(done.stderr.split())
    assert mtlkit("train", "odd.yaml", "run.name=no", "training.non_finite=ignore", *given).exit_code == 2
