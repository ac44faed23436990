"""Gaussian mixtures: exact densities, and EM that fits them.

`GaussianMixture` is the model and `GaussianMixture.fit` is EM; `Full`, `Tied`, `Diagonal`, `Spherical` and `LowRank`
say what its covariances may be. `TrainableMixture` is the same likelihood for `coursekit.diffusion.fit`.
"""

from coursekit.gmm.covariances import Covariance
from coursekit.gmm.em import EMHistory
from coursekit.gmm.gradient import TrainableMixture
from coursekit.gmm.low_rank import LowRank
from coursekit.gmm.matrices import Full, Tied
from coursekit.gmm.mixture import GaussianMixture
from coursekit.gmm.moments import Prior
from coursekit.gmm.starts import KMeansPlusPlus, RandomPoints
from coursekit.gmm.variances import Diagonal, Spherical

__all__ = [
    "Covariance",
    "Diagonal",
    "EMHistory",
    "Full",
    "GaussianMixture",
    "KMeansPlusPlus",
    "LowRank",
    "Prior",
    "RandomPoints",
    "Spherical",
    "Tied",
    "TrainableMixture",
]
