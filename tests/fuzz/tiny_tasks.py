"""Tasks on a few rows of each kind that encoders take: made in no time, so that thousands of runs can be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field

import mtlkit
from mtlkit import tasks

ROWS = 24


@dataclass(frozen=True)
class Rows(mtlkit.Source):
    """Random rows, with a class and a number to learn of each.

    Attributes:
        kind: What a row is.
        seed: Which rows.
    """

    kind: str
    seed: int = 0

    def splits(self) -> Mapping[str, mtlkit.Split]:
        generator = torch.Generator().manual_seed(self.seed)
        numbers = torch.randn(ROWS, 6, generator=generator)
        tokens = torch.randint(5, (ROWS, 6), generator=generator)
        inputs = {
            "vectors": lambda: numbers,
            "images": lambda: torch.randn(ROWS, 1, 8, 8, generator=generator),
            "tokens": lambda: tokens,
            "tables": lambda: {"numeric": numbers[:, :2], "categorical": tokens[:, :2]},
        }[self.kind]()
        kinds = torch.arange(ROWS) % 3
        return {"train": mtlkit.Split(inputs, {"kind": kinds, "size": numbers[:, 0], "often": kinds + 1.0})}


class Kind(tasks.Classification):
    """One of three classes."""

    n_classes = 3
    target = "kind"

    def __init__(
        self,
        *,
        rows: Literal["vectors", "images", "tokens", "tables"] = "vectors",
        seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    ) -> None:
        self.rows = Rows(rows, seed)

    def source(self) -> mtlkit.Source:
        return self.rows


class Size(tasks.Regression):
    """A number."""

    target = "size"

    def __init__(
        self,
        *,
        rows: Literal["vectors", "images", "tokens", "tables"] = "vectors",
        seed: Annotated[int, Field(ge=0, lt=2**63)] = 0,
    ) -> None:
        self.rows = Rows(rows, seed)

    def source(self) -> mtlkit.Source:
        return self.rows


class Listener:
    """Hears of a run, and does nothing."""

    def __init__(self, *, words: Annotated[int, Field(ge=0)] = 1) -> None:
        self.words = words

    @mtlkit.hookimpl
    def mtlkit_run_started(self, event: object) -> None:
        """Hear that it started."""


kind = mtlkit.plugin(Kind)
size = mtlkit.plugin(Size)
listener = mtlkit.plugin(Listener)
