"""Audit: look at the data and at a first step before training, and say what would spoil it. One file a subject."""

from mtlkit.audit.audit import Audit, audit
from mtlkit.audit.checks import CHECKS

__all__ = ["CHECKS", "Audit", "audit"]
