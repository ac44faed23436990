"""Linear inverse problems: samples x given b = A x + s n, from a denoiser that has never heard of A.

    Mask, AveragePool, Blur, Matrix   the operators A, with adjoint and pseudo-inverse
    Projected, DPS, PiGDM, MomentMatching   denoisers around a denoiser, whose estimates know b
    Replacement                       a sampler around a sampler, which puts b into the state (RePaint)
    exact_posterior                   the truth where the data are a Gaussian mixture

(The observation is called b here, since y is the label.)
"""

from coursekit.diffusion.inverse.estimates import DPS, MomentMatching, PiGDM, Projected
from coursekit.diffusion.inverse.exact import exact_posterior
from coursekit.diffusion.inverse.operators import AveragePool, Blur, LinearOperator, Mask, Matrix
from coursekit.diffusion.inverse.replacement import Replacement
from coursekit.diffusion.inverse.solver import conjugate_residuals

__all__ = [
    "DPS",
    "AveragePool",
    "Blur",
    "LinearOperator",
    "Mask",
    "Matrix",
    "MomentMatching",
    "PiGDM",
    "Projected",
    "Replacement",
    "conjugate_residuals",
    "exact_posterior",
]
