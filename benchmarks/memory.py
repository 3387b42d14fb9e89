"""How much memory training takes at its peak with each strategy, beside a loop written by hand.

Usage: .venv/bin/python benchmarks/memory.py [--workload NAME]... [--strategy NAME]... [--json FILE]

What is counted is what torch allocates on the CPU, from an empty start over three steps: parameters, optimizer,
activations, gradients, temporaries, and the batch. It is exact, and the same each time. The workloads are those of
steps.py; both sides step with Adam, fused. What is printed is the peak divided by the plain loop's, and what it is
above that in gradients of all shared parameters. Where torchjd is installed, one of its aggregators runs beside them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import torch
from steps import COLUMNS, Workload, plain, torchjd, weighed, workloads
from torch.profiler import ProfilerActivity, profile

STEPS = 3


def peak(work: Workload, make: Callable[[Workload], Callable[[int], None]]) -> int:
    """Return the most bytes that are allocated at a time while a loop is made and takes its steps."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        make(work.copy())(STEPS)
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = sum(tensor.nbytes for tensor in (*work.inputs, *work.targets))
    for event in sorted(events, key=lambda each: each.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def main() -> None:
    """Print the peaks, workload by workload and column by column."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", default=[])
    parser.add_argument("--strategy", action="append", default=[])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    peaks: dict[str, dict[str, int]] = {}
    for work in workloads():
        if chosen.workload and work.name not in chosen.workload:
            continue
        hand = peak(work, lambda copy: plain(copy, fused=True))
        gradient = sum(parameter.nbytes for parameter in work.encoder.parameters())
        found = peaks[work.name] = {"plain": hand}
        print(f"{work.name}: the plain loop takes {hand / 2**20:.2f} MiB, a shared gradient {gradient / 2**20:.2f} MiB")
        for column, names in COLUMNS.items():
            print(f"  {column}")
            for name in names:
                if not chosen.strategy or name in chosen.strategy:
                    found[name] = peak(work, lambda copy, name=name: weighed(copy, name))
                    more = (found[name] - hand) / gradient
                    print(f"    {name:20} x{found[name] / hand:.3f}, {more:+.2f} gradients")
        if importlib.util.find_spec("torchjd") and len(work.inputs) == 1 and work.bank is None:
            found["torchjd"] = peak(work, lambda copy: torchjd(copy, "MGDA"))
            more = (found["torchjd"] - hand) / gradient
            print(f"  {'torchjd MGDA':22} x{found['torchjd'] / hand:.3f}, {more:+.2f} gradients")
    if chosen.json:
        chosen.json.write_text(json.dumps(peaks, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
