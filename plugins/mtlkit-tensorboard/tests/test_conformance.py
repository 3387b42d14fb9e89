"""Everything that a plugin of run hooks promises."""

import mtlkit.testing

test_conformance = mtlkit.testing.conformance("mtlkit-tensorboard:tensorboard")
