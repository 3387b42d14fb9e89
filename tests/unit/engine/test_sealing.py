"""Seals: what is changed anywhere in a sealed text shows, and a run is looked over for it when it is opened."""

import hashlib
import json
import random

import pytest

from mtlkit.engine.run import RunFolder
from mtlkit.engine.sealing import is_broken, is_sealed, sealed_json, sealed_yaml
from mtlkit.errors import CheckpointError, ConfigError
from mtlkit.plainjson import loads
from mtlkit.yamlfile import parse

PLAIN = {"steps": 8, "words": ["a", None, True], "nested": {"seal": "of the sea"}, "loss": 0.25}
TEXT = "run:\n  name: first\nlr: 0.01\n"


def test_a_seal_is_the_hash_of_the_text_with_zeros_in_its_place():
    text = sealed_json(PLAIN)
    assert json.loads(text) == {**PLAIN, "seal": json.loads(text)["seal"]}
    zeros = text.replace(json.loads(text)["seal"], "0" * 64)
    assert json.loads(text)["seal"] == hashlib.sha256(zeros.encode()).hexdigest()
    assert parse(sealed_yaml(TEXT)).data == parse(TEXT).data
    assert sealed_yaml(TEXT).endswith(TEXT)


@pytest.mark.parametrize("text", [sealed_json(PLAIN), sealed_yaml(TEXT)], ids=["JSON", "YAML"])
def test_a_change_of_any_one_bit_shows(text):
    raw = text.encode()
    assert is_sealed(raw)
    assert not is_broken(raw)
    for place in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            assert not is_sealed(bytes(changed))


@pytest.mark.parametrize("text", [sealed_json(PLAIN), sealed_yaml(TEXT)], ids=["JSON", "YAML"])
def test_a_cut_shows(text):
    assert not any(is_sealed(text.encode()[:length]) for length in range(len(text)))


@pytest.mark.parametrize("raw", [b"", b"steps: 3\n", b'{"steps": 3}\n', b"# a comment\nsteps: 3\n"])
def test_what_has_no_seal_may_be_older_than_seals(raw):
    assert not is_sealed(raw)
    assert not is_broken(raw)


@pytest.fixture(name="run")
def fixture_run(tmp_path):
    """A run that is done."""
    facts = {"torch": "2", "plugins": []}
    with RunFolder.create(tmp_path / "run", config="seed: 0\nlr: 0.01\n", environment=facts) as run:
        run.finish({"steps": 8, "best_step": 4, "test": {}})
    return run


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_an_edited_file_of_a_run_is_told_of_when_it_is_opened(run, name):
    path = run.path / name
    path.write_bytes(path.read_bytes().replace(b"0.01", b"0.03").replace(b'"2"', b'"3"'))
    with pytest.warns(UserWarning, match=rf"{name} was edited or is damaged: its seal is broken"):
        RunFolder.open(run.path)


def test_edited_results_are_refused(run):
    assert RunFolder.open(run.path).result == {"steps": 8, "best_step": 4, "test": {}}
    path = run.path / "done.json"
    path.write_bytes(path.read_bytes().replace(b'"steps": 8', b'"steps": 9'))
    with pytest.raises(CheckpointError, match=r"done\.json was edited or is damaged: its seal is broken\. Without it"):
        _ = RunFolder.open(run.path).result


@pytest.mark.parametrize(
    "count", [pytest.param(500, id="some"), pytest.param(20_000, id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("text", "read"), [(sealed_json(PLAIN), loads), (sealed_yaml(TEXT), lambda raw: parse(raw.decode()).data)]
)
def test_damage_shows_or_cannot_be_read_or_changes_nothing(text, read, count):
    """Where the seal's own name is damaged it looks like none; what it was the seal of is then as it was."""
    raw, chance = text.encode(), random.Random(0)  # noqa: S311 - nothing secret
    whole = plain(read, raw)
    for _ in range(count):
        changed, start = bytearray(raw), chance.randrange(len(raw))
        match chance.choice(["flip", "cut", "zero"]):
            case "flip":
                changed[start] ^= 1 << chance.randrange(8)
            case "cut":
                del changed[start:]
            case "zero":
                end = min(start + chance.choice([1, 8, 64]), len(raw))
                changed[start:end] = bytes(end - start)
        assert is_broken(bytes(changed)) or plain(read, bytes(changed)) in (None, whole), bytes(changed)


def plain(read, raw):
    """Return what a file says beside its seal; None where it cannot be read, or says nothing."""
    try:
        data = read(raw)
    except (ValueError, ConfigError):
        return None
    return {key: value for key, value in data.items() if len(str(value)) != 64} if data else None
