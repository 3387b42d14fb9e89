"""Loss-weighting strategies: one file each; ``base.py`` is the contract."""

from mtlkit.strategies.base import Needs, Over, Strategy, Weighting
from mtlkit.strategies.fixed import Fixed
from mtlkit.strategies.gradnorm import GradNorm
from mtlkit.strategies.uncertainty import Uncertainty

__all__ = ["Fixed", "GradNorm", "Needs", "Over", "Strategy", "Uncertainty", "Weighting"]
