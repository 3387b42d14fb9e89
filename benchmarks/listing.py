"""What fifty installed plugins cost the commands that list them, measured beside none in one run.

Usage: .venv/bin/python benchmarks/listing.py [ROUNDS]

Each plugin imports torch, and one sleeps for two seconds when it is imported: listing reads metadata and source text,
and imports none. Each round runs every command with and without them in turn, so that a machine whose speed drifts
slows both; what is printed is the median of each, and the median over the rounds of the difference.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COUNT = 50
COMMANDS = [["list", "tasks"], ["list"], ["plugins", "list"], ["--help"]]
MODULE = """
import time

import click
import torch

import mtlkit

time.sleep({seconds})


class Wine(mtlkit.Task):
    '''How good a wine is.'''


@click.command()
def drink():
    '''Drink it.'''


wine = mtlkit.plugin(Wine)
drink_ = mtlkit.plugin(drink)
"""


def lay(site: Path) -> None:
    """Lay the plugins out in a folder, as pip would."""
    for number in range(COUNT):
        name = f"acme_{number}"
        metadata = site / f"{name}-1.{number}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.{number}\nSummary: Wines.\nRequires-Dist: mtlkit>=0.1\n",
            encoding="utf-8",
        )
        (metadata / "entry_points.txt").write_text(
            f"[mtlkit.tasks]\nwine-{number} = {name}:wine\n[mtlkit.commands]\ndrink-{number} = {name}:drink_\n",
            encoding="utf-8",
        )
        (site / f"{name}.py").write_text(MODULE.format(seconds=2 if number == 7 else 0), encoding="utf-8")  # noqa: PLR2004 - any


def seconds(command: list[str], site: str) -> float:
    """Return how long a command takes in a process of its own."""
    started = time.perf_counter()
    subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "mtlkit", *command],
        env=os.environ | {"PYTHONPATH": site},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def main() -> None:
    """Print the times."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as site:
        lay(Path(site))
        times: dict[str, list[tuple[float, float]]] = {" ".join(command): [] for command in COMMANDS}
        for number in range(rounds + 1):
            for command in COMMANDS:
                pair = (seconds(command, site), seconds(command, ""))
                if number:  # the first round warms up
                    times[" ".join(command)].append(pair)
    for command, pairs in times.items():
        with_them, without = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        added = statistics.median(a - b for a, b in pairs) * 1e3
        print(f"mtlkit {command:14} {with_them:6.0f} ms with {COUNT}   {without:6.0f} ms with none   {added:+6.0f} ms")


if __name__ == "__main__":
    main()
