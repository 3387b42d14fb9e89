"""Tally: how often values were NaN or infinite since a run began, and in how many steps in a row."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

__all__ = ["Tally"]


@dataclass
class Tally:
    """How often values were NaN or infinite since a run began, and in how many steps in a row.

    Attributes:
        steps: In how many steps there were any, whether the step was skipped or taken without the task.
        tasks: In how many steps each task had any.
        in_a_row: In how many steps in a row, up to now, of those that it took part in, each task had any.
        skipped_in_a_row: How many steps in a row, up to now, were skipped for such values.
    """

    steps: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    in_a_row: dict[str, int] = field(default_factory=dict)
    skipped_in_a_row: int = 0

    def note(self, spoilt: Collection[str], *, is_skipped: bool) -> None:
        """Count a step that had such values.

        Args:
            spoilt: The tasks that had any; there may be none where they were no single task's.
            is_skipped: Whether the step was skipped.
        """
        self.steps += 1
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if is_skipped else 0
        for label in spoilt:
            self.tasks[label] = self.tasks.get(label, 0) + 1
            self.in_a_row[label] = self.in_a_row.get(label, 0) + 1

    def end_rows(self, sound: Collection[str]) -> None:
        """Note that a step was taken, with these tasks, whose values were finite."""
        self.skipped_in_a_row = 0
        for label in sound:
            self.in_a_row.pop(label, None)

    def longest_with(self, spoilt: Collection[str], *, is_skipped: bool) -> int:
        """Return how many steps in a row it would be with one more of these."""
        rows = [self.in_a_row.get(label, 0) + 1 for label in spoilt]
        return max([*rows, *([self.skipped_in_a_row + 1] if is_skipped else [])], default=0)
