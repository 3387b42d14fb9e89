"""The four tasks keep what mtlkit asks of a task."""

from mtlkit.testing import conformance

test_digit = conformance("mtlkit-digits:digit")
test_parity = conformance("mtlkit-digits:parity")
test_rotation = conformance("mtlkit-digits:rotation")
test_denoise = conformance("mtlkit-digits:denoise")
