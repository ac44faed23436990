"""Noise schedules; `base` says what one is."""

from coursekit.diffusion.schedules.base import Schedule
from coursekit.diffusion.schedules.changing import EDM, VE, Rectified, SubVP
from coursekit.diffusion.schedules.preserving import Cosine, LinearVP, ScaledLinearVP, SigmoidAlphaBar, SigmoidBetaVP

__all__ = [
    "EDM",
    "SCHEDULES",
    "VE",
    "Cosine",
    "LinearVP",
    "Rectified",
    "ScaledLinearVP",
    "Schedule",
    "SigmoidAlphaBar",
    "SigmoidBetaVP",
    "SubVP",
]

SCHEDULES: dict[str, type[Schedule]] = {
    "linear": LinearVP,
    "scaled-linear": ScaledLinearVP,
    "sigmoid-beta": SigmoidBetaVP,
    "cosine": Cosine,
    "sigmoid": SigmoidAlphaBar,
    "ve": VE,
    "sub-vp": SubVP,
    "edm": EDM,
    "rectified": Rectified,
}
"""Every schedule by the name that the commands know it by."""
