"""``mtlkit init``."""

from __future__ import annotations

from pathlib import Path

import click

from mtlkit.cli.arguments import Discover, plugin_options
from mtlkit.cli.output import Output, command_output
from mtlkit.config import default_label
from mtlkit.errors import ConfigError, Problem, StorageError
from mtlkit.registry import Record, Registry
from mtlkit.runname import MAX_LENGTH, why_not
from mtlkit.yamlfile import dump

__all__ = ["init"]

TEMPLATE = """\
# A run of mtlkit. Every key but 'tasks' has a default; 'mtlkit check {path}' says what is wrong with a file.
run:
  {name_line} # the run's folder is runs/{name}; one that exists is never written over
  seed: 0

tasks:                        # 'mtlkit list tasks' lists what is installed, 'mtlkit show tasks NAME' its options
{tasks}
encoder:
  name: mlp                   # 'mtlkit list encoders'
  layers: [128, 128]
  activation: relu
  dropout: 0.0

architecture: hard-sharing    # how the tasks share the encoder

strategy:
  name: fixed                 # what weighs the losses: fixed, uncertainty, gradnorm; 'mtlkit list strategies'

optimizer:
  name: adamw                 # any of torch.optim
  lr: 0.001

schedule:
  name: cosine                # constant, linear, cosine, step
  warmup: 0.05

training:
  epochs: 10
  batch_size: 64
"""


@click.command(short_help="Write a configuration to begin with.")
@click.argument("path", type=click.Path(path_type=Path), default="run.yaml")
@click.option(
    "--task", "-t", "tasks", multiple=True, help="A task to train; may be given more than once. [all installed]"
)
@command_output
@plugin_options
def init(output: Output, path: Path, tasks: tuple[str, ...], *, discover: Discover) -> None:
    """Write a run configuration to PATH [run.yaml] that trains the tasks named, or all that are installed."""
    registry = discover()
    records = [registry.find("tasks", task) for task in tasks] or registry.usable("tasks")
    if not records:
        raise ConfigError(
            Problem(
                "No task is installed to begin with", remedy="Tasks come from plugins: pip install one, or write one."
            )
        )
    records = list(dict.fromkeys(records))
    names = [_entry(registry, record, records) for record in records]
    name = _run_name(path.stem)
    text = TEMPLATE.format(
        path=path,
        name=name,
        name_line=dump({"name": name}).strip().ljust(27),
        tasks="".join(f"  {line}\n" for line in dump(names).splitlines()),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        if not path.exists():  # then it is a folder on the way to it that is a file
            raise StorageError(f"Cannot write {path}: {error.filename} is no folder.") from error
        remedy = "It was left as it is; name another file."
        raise ConfigError(Problem(f"The file {path} exists already", remedy=remedy)) from None
    except OSError as error:
        raise StorageError(f"Cannot write {path}: {error.strerror}.") from error
    output.result({"path": str(path), "tasks": [r.name for r in records]}, f"Wrote {path}. Now: mtlkit train {path}")


def _run_name(stem: str) -> str:
    """Return a file's name as what a run may be called."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem)[:MAX_LENGTH].strip(".")
    return name if name and why_not(name) is None else f"run-{name}"[:MAX_LENGTH].rstrip(".-")


def _entry(registry: Registry, record: Record, records: list[Record]) -> dict[str, str]:
    entry = {"name": registry.name_of(record)}
    if sum(other.name == record.name for other in records) > 1:
        entry["label"] = f"{record.distribution}-{default_label(record.name)}".replace(".", "-")
    return entry
