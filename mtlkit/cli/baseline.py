"""``mtlkit baseline``."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mtlkit.cli.arguments import (
    Discover,
    config_argument,
    overrides_argument,
    plugin_options,
    plugin_options_given,
    read_config,
)
from mtlkit.cli.output import Output, Table, command_output, number
from mtlkit.cli.progress import show_progress
from mtlkit.errors import Stopped

if TYPE_CHECKING:
    from mtlkit.baselines import Trial
    from mtlkit.report.comparison import Comparison, Estimate

__all__ = ["baseline"]


@click.command(short_help="Compare each task trained together with itself alone.")
@config_argument
@overrides_argument
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="How many seeds to repeat it with."
)
@command_output
@plugin_options
def baseline(output: Output, config: Path, overrides: tuple[str, ...], *, seeds: int, discover: Discover) -> None:
    """Train the tasks of CONFIG together and each one alone, at the same budget, and say whether sharing helped.

    Runs that are finished already are used as they are, so a baseline that was stopped goes on where it was.
    """
    document = read_config(config, overrides)
    from mtlkit import baselines

    def on_trial(trial: Trial) -> None:
        alone = " alone" if trial.alone else ""
        done = "  (finished already)" if trial.reused else ""
        output.remark(f"[{trial.number}/{trial.of}] seed {trial.seed}, {trial.name}{alone}{done}")

    try:
        # A bar for each run would come and go; the lines above say which run it is.
        with show_progress(output, title="training") as listeners:
            shown = listeners if output.progress_console.is_terminal else []
            result = baselines.baseline(document, seeds=seeds, listeners=shown, on_trial=on_trial, registry=discover())
    except Stopped as stopped:
        options = [*plugin_options_given(), "--seeds", str(seeds)]
        again = shlex.join(["mtlkit", "baseline", str(config), *overrides, *options])
        raise Stopped(f"{stopped} Go on with: {again}", stopped.exit_code - 128) from None
    output.result(
        {"folder": str(result.folder), **result.comparison.to_dict()},
        _table(result.comparison),
        _sentence(result.comparison),
        f"The runs are in {result.folder}",
    )


def _table(comparison: Comparison) -> Table:
    rows = []
    for label, task in comparison.tasks.items():
        arrow = "↑" if task.headline.higher_is_better else "↓"
        rows.append(
            [
                label,
                f"{task.headline.metric} {arrow}",
                _mean(task.alone),
                _mean(task.together),
                _with_interval(task.difference, "{:+.4f}"),
                _with_interval(task.gain, "{:+.2f} %"),
                task.verdict,
            ]
        )
    rows.append(["all", "", "", "", "", _with_interval(comparison.delta_m, "{:+.2f} %"), comparison.delta_m.verdict])
    seeds = comparison.seeds
    which = f"seeds {seeds[0]} to {seeds[-1]}, mean ± 95% interval" if len(seeds) > 1 else f"seed {seeds[0]}"
    columns = ["task", "metric", ">alone", ">together", ">difference", ">Delta_m", "sharing"]
    return Table(columns, rows, f"Each task alone and together, on the test split; {which}")


def _sentence(comparison: Comparison) -> str:
    delta = comparison.delta_m
    if not math.isfinite(delta.mean):
        lost = [label for label, task in comparison.tasks.items() if not math.isfinite(task.gain.mean)]
        return f"Delta_m is undefined: a metric of {', '.join(lost)} is 0 alone, or not a number."
    verdict = {
        "helped": "sharing helped",
        "hurt": "sharing hurt",
        "no difference seen": "no difference seen",
    }[delta.verdict]
    seeds = ", ".join(map(str, comparison.seeds))
    text = f"Delta_m {_with_interval(delta, '{:+.2f} %')} (seeds: {seeds}): {verdict}"
    return text + (". One seed gives no interval; --seeds 5 would." if len(comparison.seeds) == 1 else ".")


def _mean(estimate: Estimate) -> str:
    return number(estimate.mean)


def _with_interval(estimate: Estimate, form: str) -> str:
    text = form.format(estimate.mean)
    if estimate.interval is None:
        return text
    low, high = estimate.interval
    half = form.replace("+", "").format((high - low) / 2)
    return f"{text.removesuffix(' %')} ± {half}"
