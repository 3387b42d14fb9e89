"""Transfer: what encoders start from, and which of their levels are trained, when and how fast."""

from mtlkit.transfer.freezing import (
    Rest,
    Thawing,
    encoders_of,
    levels_of,
    rest_of_level,
    rest_of_names,
    will_be_trained,
)
from mtlkit.transfer.rates import layered
from mtlkit.transfer.weights import Fit

__all__ = [
    "Fit",
    "Rest",
    "Thawing",
    "encoders_of",
    "layered",
    "levels_of",
    "rest_of_level",
    "rest_of_names",
    "will_be_trained",
]
