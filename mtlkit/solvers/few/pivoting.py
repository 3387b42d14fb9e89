"""Block pivoting of few unknowns (see ``active_set``): what to exchange, and whether a solution is to be relied on."""

from __future__ import annotations

from collections.abc import Sequence

from mtlkit.solvers.active_set import TOLERANCE

__all__ = ["ROUNDS", "exchanged"]

ROUNDS = 12  # one or two is what it takes

_MARGIN = 1e-8  # how far from a tie the slack of an unknown that is 0 has to be, beside the sum of all unknowns


def exchanged(members: list[int], values: Sequence[float], slacks: Sequence[float]) -> tuple[list[int], bool]:
    """Return whose values should not be held at 0, and whether the values are sure, should these be the members.

    Args:
        members: The places of those whose values are not held at 0, in order.
        values: All values, which solve the members' equations.
        slacks: What is to be 0 for a member, and no less for the others.
    """
    margin = _MARGIN * sum(map(abs, values))
    kept, sure = [], True
    for place, (value, slack) in enumerate(zip(values, slacks, strict=True)):
        if place in members:
            if value > 0:
                kept.append(place)
            sure = sure and abs(slack) <= TOLERANCE * value
        elif slack < 0:
            kept.append(place)
        else:
            sure = sure and slack > margin
    return kept, sure
