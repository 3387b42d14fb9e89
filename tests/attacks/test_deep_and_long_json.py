"""JSON that is deep, long, or names a key twice, in each file that a run reads back: it is named, and costs little."""

import pytest

FORGED = {
    "deep lists": b"[" * 1_000_000,
    "deep mappings": b'{"a":' * 1_000_000,
    "a deep value": b'{"schema_version": 2, "plugins": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a few hundred levels": b'{"plugins": ' + b"[" * 500 + b"]" * 500 + b"}",
    "long": b"[" + b"0," * 20_000_000 + b"0]",
    "a long string": b'"' + b"a" * 40_000_000 + b'"',
    "a long number": b'{"step": ' + b"9" * 900_000 + b"}",
    "a key twice": b'{"plugins": [], "plugins": []}',
    "not a number": b'{"plugins": NaN}',
    "no text": bytes(range(256)),
    "nothing": b"",
    "half a character": b'{"plugins": "\\ud800"',
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("name", ["best/manifest.json", "environment.json"])
def test_of_a_run_that_is_evaluated(run, name, forged, assert_refused):
    (run / name).write_bytes(forged)
    assert_refused(name.removeprefix("best/"), ways=("evaluate",))


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_of_a_run_that_is_gone_on_with(newest, forged, reseal, assert_refused):
    (newest / "state.json").write_bytes(forged)
    reseal(newest)
    assert_refused("state.json" if forged != FORGED["not a number"] else "state", ways=("resume",))


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_of_a_run_that_is_done(run, forged, command):
    (run / "done.json").write_bytes(forged)
    ended = command("train", "run.yaml", "--resume")
    assert ended.code == 5, ended.output
    assert "done.json" in ended.output
    assert "Traceback" not in ended.output
