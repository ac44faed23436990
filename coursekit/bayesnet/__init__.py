"""Bayesian networks: densities that factorise along a graph, p(x) = prod_v p(x_v | parents of v).

From the smallest graph to the fullest: naive Bayes, the Chow-Liu tree, and the networks in which each variable has all
earlier ones as parents, MADE and PixelCNN. `DiscreteNetwork` takes any graph that is small enough to be enumerated.
"""

from coursekit.bayesnet.autoregressive import Autoregressive
from coursekit.bayesnet.base import LabelledDensity
from coursekit.bayesnet.discrete import DiscreteNetwork
from coursekit.bayesnet.made import MADE
from coursekit.bayesnet.naive import BernoulliNaiveBayes, GaussianNaiveBayes, NaiveBayes
from coursekit.bayesnet.pixelcnn import PixelCNN
from coursekit.bayesnet.trees import ChowLiuTree, mutual_information

__all__ = [
    "MADE",
    "Autoregressive",
    "BernoulliNaiveBayes",
    "ChowLiuTree",
    "DiscreteNetwork",
    "GaussianNaiveBayes",
    "LabelledDensity",
    "NaiveBayes",
    "PixelCNN",
    "mutual_information",
]
