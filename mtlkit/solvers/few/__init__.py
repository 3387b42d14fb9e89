"""The same problems for few tasks, in plain numbers: a Gram matrix as lists of floats in, a list of floats out.

Each function answers as its namesake among the solvers does, to rounding; or None, where it cannot vouch for that:
where a number is not finite or far from 1, or gradients are nearly dependent, or which of them count is nearly a tie.
The namesake, which every case has its own care in, is to be asked then.

Whatever is done with an array costs a microsecond, and ten in a training step, in which its code has left the
processor's caches since the step before: all that a few numbers need costs less than two or three such steps.

>>> min_norm_of_few([[1.0, -1.0], [-1.0, 5.0]])
[0.75, 0.25]
>>> min_norm_of_few([[1.0] * 3] * 3) is None  # a tie
True
"""

from mtlkit.solvers.few.cagrad import cagrad_of_few
from mtlkit.solvers.few.cone import dual_cone_of_few
from mtlkit.solvers.few.linear import FEW, Rows, cosines_of, dot, eigen_of, factor_of, image_of, norms_of, solution
from mtlkit.solvers.few.nash import nash_of_few
from mtlkit.solvers.few.projection import project_few_to_simplex
from mtlkit.solvers.few.simplex import min_norm_of_few, simplex_qp_of_few

__all__ = [
    "FEW",
    "Rows",
    "cagrad_of_few",
    "cosines_of",
    "dot",
    "dual_cone_of_few",
    "eigen_of",
    "factor_of",
    "image_of",
    "min_norm_of_few",
    "nash_of_few",
    "norms_of",
    "project_few_to_simplex",
    "simplex_qp_of_few",
    "solution",
]
