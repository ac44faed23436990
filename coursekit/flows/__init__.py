"""Flows: bijections with known Jacobian determinants, and the densities that they make."""

from coursekit.flows.autoregressive import MaskedAffine, MaskedAutoregressive, MaskedSpline
from coursekit.flows.base import Base, Bijection, Compose, Flow, Inverted, StandardNormal
from coursekit.flows.continuous import ContinuousFlow, ExactTrace, Hutchinson, VelocityMLP, quadratic_forms
from coursekit.flows.coupling import (
    AffineCoupling,
    Coupling,
    Permutation,
    Reverse,
    SplineCoupling,
    alternating,
    halves,
)
from coursekit.flows.dequantise import Sigmoid, UniformDequantisation, VariationalDequantisation
from coursekit.flows.elementwise import Affine, RationalQuadratic
from coursekit.flows.image_flow import ImageFlow, image_flow
from coursekit.flows.images import ActNorm, InvertibleConv1x1, Split, Squeeze, Unsqueeze
from coursekit.flows.planar import Planar, Radial
from coursekit.flows.presets import (
    continuous_flow,
    masked_autoregressive_flow,
    planar_flow,
    radial_flow,
    real_nvp,
    spline_flow,
)

__all__ = [
    "ActNorm",
    "Affine",
    "AffineCoupling",
    "Base",
    "Bijection",
    "Compose",
    "ContinuousFlow",
    "Coupling",
    "ExactTrace",
    "Flow",
    "Hutchinson",
    "ImageFlow",
    "Inverted",
    "InvertibleConv1x1",
    "MaskedAffine",
    "MaskedAutoregressive",
    "MaskedSpline",
    "Permutation",
    "Planar",
    "Radial",
    "RationalQuadratic",
    "Reverse",
    "Sigmoid",
    "SplineCoupling",
    "Split",
    "Squeeze",
    "StandardNormal",
    "UniformDequantisation",
    "Unsqueeze",
    "VariationalDequantisation",
    "VelocityMLP",
    "alternating",
    "continuous_flow",
    "halves",
    "image_flow",
    "masked_autoregressive_flow",
    "planar_flow",
    "quadratic_forms",
    "radial_flow",
    "real_nvp",
    "spline_flow",
]
