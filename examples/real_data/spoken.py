"""The Free Spoken Digit Dataset as two tasks: which digit was spoken, and by whom, from log-mel spectrograms.

The file ``spoken-digits/recordings.zip`` is read from the folder that ``MTLKIT_DATA`` names, or the option `folder`.
The split is the official one: of each speaker's fifty recordings of a digit, the first five are for the test.
"""

from __future__ import annotations

import io
import math
import os
import wave
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

import mtlkit
from mtlkit import tasks

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
RATE, SAMPLES = 8000, 8192  # in Hz; what a recording is cut or padded to, about a second
WINDOW, HOP, BANDS = 256, 128, 40
TEST_RECORDINGS = 5


@dataclass(frozen=True)
class Recordings(mtlkit.Source):
    """Recordings of a second, as images of 40 mel bands by 64 frames, standardised over the training rows.

    Attributes:
        folder: Where the data is.
    """

    folder: str

    def splits(self) -> Mapping[str, mtlkit.Split]:
        sounds: dict[str, list[Tensor]] = {"train": [], "test": []}
        labels: dict[str, list[tuple[int, int]]] = {"train": [], "test": []}
        with zipfile.ZipFile(Path(self.folder) / "spoken-digits" / "recordings.zip") as archive:
            for name in sorted(each for each in archive.namelist() if each.endswith(".wav")):
                digit, speaker, number = PurePosixPath(name).stem.split("_")
                split = "test" if int(number) < TEST_RECORDINGS else "train"
                sounds[split].append(samples(archive.read(name)))
                labels[split].append((int(digit), SPEAKERS.index(speaker)))
        images = {split: log_mel(torch.stack(each)) for split, each in sounds.items()}
        mean, deviation = images["train"].mean(), images["train"].std()
        return {
            split: mtlkit.Split(
                ((image - mean) / deviation)[:, None],
                dict(zip(("digit", "speaker"), np.array(labels[split]).T, strict=True)),
            )
            for split, image in images.items()
        }


def samples(data: bytes) -> Tensor:
    """Return the samples ``[8192]`` of a WAV file in [-1, 1], cut, or padded with silence."""
    with wave.open(io.BytesIO(data)) as file:
        heard = np.frombuffer(file.readframes(SAMPLES), dtype="<i2").astype(np.float32) / 2**15
    return torch.from_numpy(np.pad(heard, (0, SAMPLES - len(heard))))


def log_mel(sounds: Tensor) -> Tensor:
    """Return the log-mel spectrograms ``[N, bands, frames]`` of sounds ``[N, samples]``."""
    window = torch.hann_window(WINDOW)
    spectra = torch.stft(sounds, WINDOW, HOP, window=window, return_complex=True).abs().square()  # [N, bins, frames]
    return (mel_filters() @ spectra + 1e-6).log()[:, :, : SAMPLES // HOP]


def mel_filters() -> Tensor:
    """Return triangles of equal width on the mel scale (2595 log10(1 + f / 700)) ``[bands, bins]``."""
    highest = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, highest, BANDS + 2) / 2595) - 1)  # in Hz
    bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


class _OfRecordings(tasks.Classification):
    def __init__(self, *, folder: str | None = None) -> None:
        self.folder = folder or os.environ.get("MTLKIT_DATA", ".")

    def source(self) -> mtlkit.Source:
        return Recordings(self.folder)


class SpokenDigit(_OfRecordings):
    """Which digit was spoken."""

    target, n_classes = "digit", 10


class Speaker(_OfRecordings):
    """Who spoke."""

    target, n_classes = "speaker", len(SPEAKERS)


spoken_digit = mtlkit.plugin(SpokenDigit)
speaker = mtlkit.plugin(Speaker)
