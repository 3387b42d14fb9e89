"""What the fuzzers share: where their modules are, and the number that everything random depends on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # its modules, which importlib mode does not find by themselves


@pytest.fixture(scope="session")
def seed() -> int:
    """What every case depends on, beside its number: MTLKIT_FUZZ_SEED, 0 by default."""
    return int(os.environ.get("MTLKIT_FUZZ_SEED", "0"))
