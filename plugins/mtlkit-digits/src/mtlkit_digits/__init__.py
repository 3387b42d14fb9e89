"""Four tasks on handwritten digits: which digit, its parity, how it is turned, and what it was before the noise."""

import mtlkit
from mtlkit_digits.tasks import Denoise, Digit, Parity, Rotation

digit = mtlkit.plugin(Digit)
parity = mtlkit.plugin(Parity)
rotation = mtlkit.plugin(Rotation)
denoise = mtlkit.plugin(Denoise)
