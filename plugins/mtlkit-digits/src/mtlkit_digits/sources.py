"""The sources: scikit-learn's copy of UCI optdigits, 1,797 grey images of 8x8 pixels, and what is made of them.

Every fifth image of each digit is held out for the test, whatever is made of it, so that no test image of one task is a
training image of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

import mtlkit

__all__ = ["Digits", "NoisyDigits", "TurnedDigits"]

Array = np.ndarray
BRIGHTEST = 16


def images_by_split() -> dict[str, tuple[Array, Array]]:
    """Return images ``[N, 1, 8, 8]`` in [0, 1] and digits ``[N]`` of the training and the test split."""
    data = load_digits()
    images = (data.images / BRIGHTEST).astype(np.float32)[:, None]
    held_out = np.zeros(len(images), dtype=bool)
    for digit in range(10):
        held_out[np.flatnonzero(data.target == digit)[::5]] = True
    return {
        "train": (images[~held_out], data.target[~held_out]),
        "test": (images[held_out], data.target[held_out]),
    }


@dataclass(frozen=True)
class Digits(mtlkit.Source):
    """The images as they are, with the digit and its parity."""

    def splits(self) -> Mapping[str, mtlkit.Split]:
        return {
            name: mtlkit.Split(images, {"digit": digits, "parity": digits % 2})
            for name, (images, digits) in images_by_split().items()
        }


@dataclass(frozen=True)
class TurnedDigits(mtlkit.Source):
    """Every image in all four quarter turns, with how many turns it was given."""

    def splits(self) -> Mapping[str, mtlkit.Split]:
        return {
            name: mtlkit.Split(
                np.concatenate([np.rot90(images, turns, axes=(2, 3)) for turns in range(4)]),
                {"turns": np.repeat(np.arange(4), len(images))},
            )
            for name, (images, _) in images_by_split().items()
        }


@dataclass(frozen=True)
class NoisyDigits(mtlkit.Source):
    """The images with Gaussian noise, with the clean ones to be reconstructed.

    The clean pixels are standardised by the mean and the standard deviation of all training pixels, so that a squared
    error of 1 is that of always answering the mean.

    Attributes:
        noise: The noise's standard deviation, where the brightest pixel is 1.
        seed: Seeds the noise.
    """

    noise: float
    seed: int

    def splits(self) -> Mapping[str, mtlkit.Split]:
        random = np.random.default_rng(self.seed)
        given = images_by_split()
        mean, deviation = given["train"][0].mean(), given["train"][0].std()
        splits = {}
        for name, (images, _) in given.items():
            noisy = images + self.noise * random.standard_normal(images.shape, dtype=np.float32)
            clean = (images.reshape(len(images), -1) - mean) / deviation
            splits[name] = mtlkit.Split(np.clip(noisy, 0, 1), {"clean": clean})
        return splits
