"""MNIST's 10,000 test images as a task, to be trained beside images of another size.

The IDX files of ``mnist-t10k`` are read from the folder that ``MTLKIT_DATA`` names, or the option `folder`. They are
split by seed, as rows without splits of their own are.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mtlkit
from mtlkit import tasks


@dataclass(frozen=True)
class Images(mtlkit.Source):
    """Grey images of 28 x 28 pixels in [0, 1].

    Attributes:
        folder: Where the data is.
    """

    folder: str

    def splits(self) -> Mapping[str, mtlkit.Split]:
        folder = Path(self.folder) / "mnist-t10k"
        images, labels = read(folder / "t10k-images-idx3-ubyte.gz"), read(folder / "t10k-labels-idx1-ubyte.gz")
        return {"train": mtlkit.Split(images[:, None].astype(np.float32) / 255, {"digit": labels.astype(np.int64)})}


def read(path: Path) -> np.ndarray:
    """Return the array of an IDX file: two bytes of 0, a type, the number of dimensions, the sizes, the data."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">i4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class MnistDigit(tasks.Classification):
    """Which of the ten digits a person wrote."""

    target, n_classes = "digit", 10

    def __init__(self, *, folder: str | None = None) -> None:
        self.folder = folder or os.environ.get("MTLKIT_DATA", ".")

    def source(self) -> mtlkit.Source:
        return Images(self.folder)


mnist_digit = mtlkit.plugin(MnistDigit)
