r"""Priors p(t), modules whose call returns a distribution of event shape (D,), and a prior of a Bayesian w."""

from .given import needs_given
from .mixture import Mixture, MixtureOfNormals
from .normal import ScaledNormal, StandardNormal
from .vamp import VampPrior
from .weights import bayesian

__all__ = [
    "Mixture",
    "MixtureOfNormals",
    "ScaledNormal",
    "StandardNormal",
    "VampPrior",
    "bayesian",
    "needs_given",
]
