"""Every strategy keeps what mtlkit asks of one."""

import importlib.util

import pytest

from mtlkit.testing import conformance

DRAWS = {"permuting_the_tasks_permutes_the_weights": "It draws an order of the tasks, or a number for each."}
FIRST = {"permuting_the_tasks_permutes_the_weights": "The first task is the primary one: that is the method."}
SQUARES = {"gradients_stay_finite_in_float32": "TorchJD sums the squared gradients in the gradients' own dtype."}
SOLVER = {"every_scale_has_finite_weights": "With norms of 1e-30 beside 1, cvxpy warns that ECOS may be inaccurate."}

test_aligned_mtl = conformance("mtlkit-torchjd:torchjd-aligned-mtl")
test_config = conformance("mtlkit-torchjd:torchjd-config")
test_constant = conformance("mtlkit-torchjd:torchjd-constant")
test_cr_mogm = conformance("mtlkit-torchjd:torchjd-cr-mogm", options={"weighting": "imtl-g"})
test_dualproj = conformance("mtlkit-torchjd:torchjd-dualproj")
test_excess_mtl = conformance("mtlkit-torchjd:torchjd-excess-mtl", expected_failures=SQUARES)
test_fairgrad = conformance("mtlkit-torchjd:torchjd-fairgrad", options={"max_iters": 10})
test_graddrop = conformance("mtlkit-torchjd:torchjd-graddrop")
test_gradvac = conformance("mtlkit-torchjd:torchjd-gradvac", expected_failures=DRAWS)
test_imtl_g = conformance("mtlkit-torchjd:torchjd-imtl-g")
test_krum = conformance("mtlkit-torchjd:torchjd-krum")
test_mean = conformance("mtlkit-torchjd:torchjd-mean")
test_mgda = conformance("mtlkit-torchjd:torchjd-mgda", options={"max_iters": 10})
test_modo = conformance("mtlkit-torchjd:torchjd-modo")
test_pcd = conformance("mtlkit-torchjd:torchjd-pcd", expected_failures=FIRST)
test_pcgrad = conformance("mtlkit-torchjd:torchjd-pcgrad", expected_failures=DRAWS)
test_random = conformance("mtlkit-torchjd:torchjd-random", expected_failures=DRAWS)
test_sdmgrad = conformance("mtlkit-torchjd:torchjd-sdmgrad", options={"n_iter": 5})
test_sum = conformance("mtlkit-torchjd:torchjd-sum")
test_trimmed_mean = conformance("mtlkit-torchjd:torchjd-trimmed-mean")
test_upgrad = conformance("mtlkit-torchjd:torchjd-upgrad")

# The two that cvxpy solves take it milliseconds for each question.
cagrad = conformance("mtlkit-torchjd:torchjd-cagrad")
test_cagrad = pytest.mark.slow(cagrad)
nash_mtl = conformance("mtlkit-torchjd:torchjd-nash-mtl", expected_failures=SOLVER)
lacks_ecos = importlib.util.find_spec("ecos") is None
test_nash_mtl = pytest.mark.slow(pytest.mark.skipif(lacks_ecos, reason="ecos has no wheel for this Python")(nash_mtl))
