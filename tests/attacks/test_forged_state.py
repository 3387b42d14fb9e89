"""A state of other types, sizes and numbers than a run writes, sealed as if it had: it is named, or does no harm."""

import json
import math
import random

import pytest
import safetensors.torch
import torch

import mtlkit
from mtlkit.errors import MtlkitError

ODD = [
    *(None, True, -1, 0, 3, 2**62, 2**200, -0.5, 1e300, math.inf, math.nan, "", "os:system", [], {}, (), [[]]),
    *(
        torch.tensor(0.0),
        torch.zeros(0),
        torch.zeros(3),
        torch.full((2, 2), math.nan),
        torch.zeros(7, dtype=torch.uint8),
    ),
    *(torch.zeros(5056, dtype=torch.uint8), torch.ones(5056, dtype=torch.uint8), torch.zeros(624, dtype=torch.int64)),
]


def places(value, path=()):
    """Yield the path of everything in a packed state."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


@pytest.fixture(name="forge")
def fixture_forge(newest, reseal):
    """Return a function that puts something odd in one place of the state."""
    state = (newest / "state.json").read_text(encoding="utf-8")
    tensors = safetensors.torch.load_file(newest / "state.safetensors")
    paths = [path for path in places(json.loads(state)) if path]

    def forge(seed):
        chance = random.Random(seed)  # noqa: S311 - nothing secret
        forged, path, odd = json.loads(state), chance.choice(paths), chance.choice(ODD)
        more = {}
        if isinstance(odd, torch.Tensor):
            more = {"odd": odd}
            odd = {"$tensor": "odd"}
        elif isinstance(odd, tuple):
            odd = {"$tuple": []}
        elif isinstance(odd, float) and not math.isfinite(odd):
            odd = {"$float": "7ff0000000000000" if math.isinf(odd) else "7ff8000000000000"}
        elif odd == 2**200:
            odd = {"$int": f"{odd:x}"}
        inner = forged
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = odd
        (newest / "state.json").write_text(json.dumps(forged), encoding="utf-8")
        safetensors.torch.save_file(tensors | more, newest / "state.safetensors")
        reseal(newest)
        return ".".join(map(str, path)), odd

    return forge


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [pytest.param(30, id="some"), pytest.param(1500, id="all", marks=pytest.mark.slow)])
def test_is_refused_or_does_no_harm(run, forge, registry, tmp_path, count):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    codes = set()
    for seed in range(count):
        where = forge(seed)
        try:
            mtlkit.train(tmp_path / "run.yaml", resume=True, registry=registry)
        except MtlkitError as error:
            codes.add(error.exit_code)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {where}") from error
        for path in [path for path in run.rglob("*") if path.is_file() and path not in before]:
            path.unlink()
        for path, content in before.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    assert codes <= {5, 6}
