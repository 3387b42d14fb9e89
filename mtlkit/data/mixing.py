"""Mixing: which source a pass draws its batch from, where it draws from one and not from all."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping

from mtlkit.data.splits import derived_seed

__all__ = ["Mixing"]

_SEEDS = 2**63  # how many seeds there are


class Mixing:
    """Draws one of S sources for each pass, in proportion to a power of its size.

        p_i = n_i^alpha / sum_j n_j^alpha

    With alpha = 1 sources are drawn in proportion to their sizes, with alpha = 0 all alike, and in between with the
    temperature T = 1 / alpha (Raffel et al., JMLR 2020, "T5", section 3.5.2). Alpha may change over the run, at step t
    of 0 ... steps - 1 along the line

        alpha = first + (last - first) t / (steps - 1)

    With first = 1 and last = 0.2 that is annealed sampling (Stickland, Murray, ICML 2019, "BERT and PALs"), which has
    alpha = 1 - 0.8 (e - 1) / (E - 1) in epoch e of E. A departure: alpha changes with each step here, not with each
    epoch.

    What is drawn depends on the seed, the number of the pass and the sizes alone. There is no state to keep, and every
    process draws the same.

    Args:
        sizes: The size of each source by its name, in an order that what is drawn depends on.
        first: Alpha at the first step.
        last: Alpha at the last step.
        seed: The same seed draws the same sources.

    Raises:
        ValueError: If there is no source, or a size is not above 0.
    """

    def __init__(self, sizes: Mapping[str, float], *, first: float = 1.0, last: float = 1.0, seed: int) -> None:
        if not sizes or not all(size > 0 for size in sizes.values()):
            raise ValueError(f"sizes needs one source or more, each with a size above 0; received {dict(sizes)}")
        self.sizes = dict(sizes)
        self.first = first
        self.last = last
        self.seed = seed

    def probabilities(self, step: int, steps: int) -> dict[str, float]:
        """Return how likely each source is to be drawn in a pass of `step`, counted from 0, of a run of `steps`."""
        alpha = self.first + (self.last - self.first) * step / max(1, steps - 1)
        largest = max(self.sizes.values())  # so that no power is out of range
        powers = {name: (size / largest) ** alpha for name, size in self.sizes.items()}
        total = sum(powers.values())
        return {name: power / total for name, power in powers.items()}

    def drawn(self, number: int, step: int, steps: int) -> str:
        """Return the source that a pass draws from.

        Args:
            number: The number of the pass, counted over the whole run.
            step: The step that it belongs to, counted from 0.
            steps: How many steps the run has.
        """
        bounds = list(itertools.accumulate(self.probabilities(step, steps).values()))
        place = derived_seed(self.seed, number) / _SEEDS * bounds[-1]
        # A place so close to the end that it was rounded to it is within the last one.
        return list(self.sizes)[min(bisect.bisect_right(bounds, place), len(bounds) - 1)]
