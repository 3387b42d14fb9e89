"""The small optimisation problems behind gradient-based weighting, each from the Gram matrix of the gradients alone.

Letters: T tasks; g_i the tasks' gradients, G = [g_1 .. g_T]; M = G'G their Gram matrix ``[T, T]``; w weights; g_w = G w
a combination, g_0 the mean gradient; e_i a row of the identity; the simplex {w >= 0, sum(w) = 1}.

Everything here is NumPy in float64: arrays in, arrays out. Only angles between gradients and ratios of their norms
matter, so norms may lie anywhere between 1e-150 and 1e150; what is below that, also relative to the largest, counts as
a zero gradient. Any finite M that is positive semidefinite, up to the rounding of float64, gets a finite answer, the
same one each time. Every loop has a limit that counts. ``few`` has the same problems for few tasks, in plain numbers.

>>> import numpy as np
>>> gradients = np.array([[1.0, 0.0], [-1.0, 2.0]])
>>> gramian = gradients @ gradients.T
>>> min_norm_point(gramian)  # mgda
array([0.75, 0.25])
>>> dual_cone(gramian, np.eye(2)).mean(axis=0)  # upgrad
array([1. , 0.6])
"""

from mtlkit.solvers.cagrad import cagrad_weights
from mtlkit.solvers.cone import dual_cone
from mtlkit.solvers.min_norm import min_norm_point
from mtlkit.solvers.nash import nash_weights
from mtlkit.solvers.quadratic import simplex_qp
from mtlkit.solvers.simplex import project_to_simplex

__all__ = [
    "cagrad_weights",
    "dual_cone",
    "min_norm_point",
    "nash_weights",
    "project_to_simplex",
    "simplex_qp",
]
