r"""Samplers: from noise to data along a decreasing grid of times t_0 > t_1 > ... > t_{N-1}, then clean data.

Deterministic samplers follow the probability-flow ODE (Song et al., 2021, arXiv 2011.13456, eq. 13). In polar
coordinates alpha = rho cos(phi), sigma = rho sin(phi), z = x / rho, it has one form for every schedule,

    dz/dphi = cos(phi) eps - sin(phi) x_0 = (alpha x / rho - rho D(x)) / sigma,

finite from pure noise (phi = pi/2) to the last bit of noise; D is the denoiser, eps = (x - alpha D) / sigma, and the
right-hand side is the "v" of Salimans and Ho, 2022, arXiv 2202.00512, appendix D.

A sampler is a generator function (denoise, x, path, generator) that yields x after each of the N steps,
denoise(x, t) being the estimate of x_0 at time t. Coefficients are computed once, in float64, as Python
numbers: a step is a few tensor operations around the network. The last step returns the denoiser's mean.

    name         function      calls      order   what a step does
    ddpm         ddpm          N          1       ancestral: the posterior of the chain, with fresh noise
    ddim         ddim          N          1       keeps the estimates of data and noise; eta sets the fresh noise
    euler        euler         N          1       dz/dphi
    heun         heun          2N - 1     2       dz/dphi
    dpm++2s      dpmpp_2s      2N - 1     2       exponential midpoint
    dpm++2m      dpmpp_2m      N          2       a line through two estimates
    dpm++2m-sde  dpmpp_2m_sde  N          2       the same with fresh noise
    deis         deis          N + 1      3       a parabola through three, begun by a midpoint
    unipc        unipc         N          3       a line, corrected by a parabola when the next estimate is known
    edm          edm           2N - 1     2       adds noise, then Heun
    pc           pc            2N - 1     1       ancestral, then Langevin (if snr^2 falls as 1/N; else a bias stays)
    adaptive     adaptive      as needed  5       Dormand-Prince, to a tolerance, a step size per sample

Orders are of the error in x for samplers that add no noise, and of the error in law for those that do, whatever the
schedule. The last jump, to clean data, has an error of the order of the square of the last noise level: orders
above 2 show on grids whose last level falls faster than 1/N, such as "angle^2".
"""

from coursekit.diffusion.samplers.adaptive import adaptive
from coursekit.diffusion.samplers.draw import SAMPLERS, Recorder, sample
from coursekit.diffusion.samplers.interpolation import Coordinate, angle, evenest, log_snr
from coursekit.diffusion.samplers.multistep import deis, dpmpp_2m, unipc
from coursekit.diffusion.samplers.single_step import Denoise, Sampler, ddim, ddpm, dpmpp_2s, euler, heun
from coursekit.diffusion.samplers.stochastic import dpmpp_2m_sde, edm, pc

__all__ = [
    "SAMPLERS",
    "Coordinate",
    "Denoise",
    "Recorder",
    "Sampler",
    "adaptive",
    "angle",
    "ddim",
    "ddpm",
    "deis",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "edm",
    "euler",
    "evenest",
    "heun",
    "log_snr",
    "pc",
    "sample",
    "unipc",
]
