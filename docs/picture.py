"""Draw docs/demo.svg: what the demo's commands show on a terminal. Run it with ``make picture``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 112
COMMANDS = (
    "mtlkit train examples/digits.yaml run.dir=.demo",
    "mtlkit baseline examples/digits.yaml run.dir=.demo --seeds 3",
)


def shown(command: str) -> list[str]:
    """Run a command as on a terminal, and return the lines that are left when it has ended, colours included."""
    program, *arguments = command.split()
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    path = Path(sys.executable).with_name(program)
    done = subprocess.run(  # noqa: S603 - the commands above
        [path, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    )
    return settled(done.stdout.decode())


def settled(stream: str) -> list[str]:
    """Apply what a progress bar sends to move about and to erase itself."""
    lines, row = [""], 0
    for part in re.split(r"(\n|\r|\x1b\[\d*A|\x1b\[2K|\x1b\[\?25[lh])", stream):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b["):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part and part != "\r" and not part.startswith("\x1b[?25"):
            lines[row] += part
    return lines


def main() -> None:
    """Run the demo afresh and draw it."""
    shutil.rmtree(ROOT / ".demo", ignore_errors=True)
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    for command in COMMANDS:
        console.print(Text(f"$ {command}", style="bold"))
        for line in shown(command):
            console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    console.save_svg(str(ROOT / "docs" / "demo.svg"), title="make demo")


if __name__ == "__main__":
    main()
