"""Tasks of the usual kinds, to be subclassed: each has the head, the loss, the metrics and the kind of loss that fit.

A subclass says where its rows come from, and which target it learns; whatever else is not as it needs it, it replaces::

    class Wine(mtlkit.tasks.Classification):
        "Which of three cultivars a wine was made from."

        target, n_classes = "cultivar", 3

        def source(self):
            return WineRows()
"""

from mtlkit.tasks.binary import Binary
from mtlkit.tasks.classification import Classification
from mtlkit.tasks.multi_label import MultiLabel
from mtlkit.tasks.reconstruction import Reconstruction
from mtlkit.tasks.regression import Regression
from mtlkit.tasks.segmentation import Segmentation
from mtlkit.tasks.tagging import Tagging

__all__ = ["Binary", "Classification", "MultiLabel", "Reconstruction", "Regression", "Segmentation", "Tagging"]
