"""Numbers that ask for all time or all memory: refused where they stand, before anything is made of them."""

from __future__ import annotations

import pytest

SETTINGS = [
    "encoder.layers=[1000000000000]",
    "encoder.layers=[1000000000, 1000000000]",
    "architecture={name: mmoe, experts: 1000000000}",
    "architecture={name: ple, levels: 1000000000}",
    "training.threads=1000000000",
    "loading.workers=10000",
    "training.batch_size=" + "9" * 400,
    "training.steps=1" + "0" * 600,
    "run.seed=0x" + "F" * 5000,
    "transfer.freeze=1000000000000000000",
    f"encoder.layers=[{', '.join(['4'] * 5000)}]",
    f"strategy={{name: fixed, alpha: [{', '.join(['1'] * 50_000)}]}}",
]


@pytest.mark.parametrize("setting", SETTINGS, ids=[setting[:40] for setting in SETTINGS])
def test_is_refused(run, command, setting):
    ended = command("check", "run.yaml", setting)
    assert ended.code == 2, ended.output
    assert ended.output.startswith("Error:")
    assert "Traceback" not in ended.output
    assert "(command line: " in ended.output or "at encoder (run.yaml:" in ended.output


def test_of_the_json_of_a_run(run, command):
    (run / "environment.json").write_text('{"plugins": ' + "9" * 500_000 + "}", encoding="utf-8")
    ended = command("evaluate", run)
    assert ended.code == 5
    assert "environment.json cannot be read" in ended.output
