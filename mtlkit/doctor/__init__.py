"""The doctor: what is wrong with each installed plugin, by its metadata and by loading it in a process of its own."""

from mtlkit.doctor.examination import Entry, Examination, Examined, examine
from mtlkit.findings import Finding, Level

__all__ = ["Entry", "Examination", "Examined", "Finding", "Level", "examine"]
