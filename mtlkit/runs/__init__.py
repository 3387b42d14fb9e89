"""The runs that are on the disk: which there are, how each is, whether it is sound, and what of it can go.

To list and to show them reads a few small files of each, and imports no torch; nothing is believed of them, for a run
folder may be anybody's.
"""

from mtlkit.runs.cleaning import Item, plan, remove
from mtlkit.runs.details import Checkpoint, Details, details
from mtlkit.runs.summary import Summary, find, summarize
from mtlkit.runs.verification import Verdict, verify

__all__ = [
    "Checkpoint",
    "Details",
    "Item",
    "Summary",
    "Verdict",
    "details",
    "find",
    "plan",
    "remove",
    "summarize",
    "verify",
]
