r"""Samplers: from noise to data along a decreasing grid of times t_0 > t_1 > ... > t_{N-1}, then clean data.

Deterministic samplers follow the probability-flow ODE (Song et al., 2021, arXiv 2011.13456, eq. 13). In polar
coordinates alpha = rho cos(phi), sigma = rho sin(phi), z = x / rho, it has one form for every schedule,

    dz/dphi = cos(phi) eps - sin(phi) x_0 = (alpha x / rho - rho D(x)) / sigma,

finite from pure noise (phi = pi/2) to the last bit of noise; D is the denoiser, eps = (x - alpha D) / sigma, and the
right-hand side is the "v" of Salimans and Ho, 2022, arXiv 2202.00512, appendix D.

A sampler is a generator function (denoise, x, path, generator) that yields x after each of the N steps,
denoise(x, t) being the estimate of x_0 at time t. Coefficients are computed once, in float64, as Python
numbers: a step is two or three tensor operations around the network. The last step returns the denoiser's mean.
"""

from coursekit.diffusion.samplers.draw import SAMPLERS, sample
from coursekit.diffusion.samplers.single_step import Denoise, Sampler, ddim, ddpm, euler, heun

__all__ = ["SAMPLERS", "Denoise", "Sampler", "ddim", "ddpm", "euler", "heun", "sample"]
