"""Draw docs/two_objectives.svg: the paths of some strategies from examples/two_objectives.py.

Usage: python docs/two_objectives.py [--steps N]
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("fixed", "mgda", "pcgrad", "cagrad", "nash-mtl", "famo")
COLUMNS, SIDE, MARGIN, TITLE = 3, 220, 12, 22  # pixels
REACH = 11.0  # of each axis, to both sides of 0
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # told apart by colour-blind readers too
PARETO = [(x1, -8.355 - 0.079 * (x1 / 7) ** 2) for x1 in range(-7, 8)]  # to a hundredth

Place = tuple[float, float]


def example() -> ModuleType:
    """Return the experiment's module."""
    spec = importlib.util.spec_from_file_location("two_objectives", ROOT / "examples" / "two_objectives.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(ROOT / "examples" / "two_objectives.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(paths: Mapping[str, Sequence[Sequence[Place]]]) -> str:
    """Return an SVG with a panel for each strategy: the Pareto set, and a path from each start to its end."""
    step = SIDE + MARGIN
    width = MARGIN + COLUMNS * step
    height = MARGIN + -(-len(paths) // COLUMNS) * (step + TITLE)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        '<g font-family="sans-serif" font-size="13" fill="none" stroke-linejoin="round">',
        "<title>Where each strategy goes on two objectives in the plane</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, (name, each) in enumerate(paths.items()):
        row, column = divmod(index, COLUMNS)
        lines += [
            f'<g transform="translate({MARGIN + column * step} {MARGIN + row * (step + TITLE)})">',
            f'<text y="14" fill="#222">{escape(name)}</text>',
            f'<g transform="translate(0 {TITLE})">',
            f'<rect width="{SIDE}" height="{SIDE}" stroke="#bbb"/>',
            f'<polyline points="{_points(PARETO)}" stroke="#999" stroke-width="6" stroke-linecap="round"/>',
        ]
        for colour, path in zip(COLOURS, each, strict=True):
            (start_x, start_y), (end_x, end_y) = _pixel(path[0]), _pixel(path[-1])
            lines += [
                f'<polyline points="{_points(path)}" stroke="{colour}" stroke-width="1.5"/>',
                f'<circle cx="{start_x}" cy="{start_y}" r="3.5" stroke="{colour}" fill="white"/>',
                f'<circle cx="{end_x}" cy="{end_y}" r="3.5" fill="{colour}"/>',
            ]
        lines += ["</g>", "</g>"]
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _pixel(place: Place) -> tuple[float, float]:
    x1, x2 = place
    return round(SIDE * (x1 + REACH) / (2 * REACH), 1), round(SIDE * (REACH - x2) / (2 * REACH), 1)


def _points(path: Iterable[Place]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in map(_pixel, path))


def main() -> None:
    """Run the experiment and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100_000)
    steps = parser.parse_args().steps
    plane = example()
    paths = {name: [plane.descend(name, start, steps).tolist() for start in plane.STARTS] for name in SHOWN}
    (ROOT / "docs" / "two_objectives.svg").write_text(picture(paths), encoding="utf-8")


if __name__ == "__main__":
    main()
