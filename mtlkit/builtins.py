"""What ships inside mtlkit, in the same records that plugins give. A new component is one row here."""

from __future__ import annotations

__all__ = ["BUILTINS"]

# kind, name, the class
BUILTINS = (
    ("encoders", "cnn", "mtlkit.encoders.cnn:CNN"),
    ("encoders", "mlp", "mtlkit.encoders.mlp:MLP"),
    ("architectures", "hard-sharing", "mtlkit.architectures.hard_sharing:HardSharing"),
    ("strategies", "fixed", "mtlkit.strategies.fixed:Fixed"),
    ("strategies", "gradnorm", "mtlkit.strategies.gradnorm:GradNorm"),
    ("strategies", "uncertainty", "mtlkit.strategies.uncertainty:Uncertainty"),
)
