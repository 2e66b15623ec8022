r"""Likelihoods p(x | t, w): modules whose call maps a code t to a distribution of x.

A likelihood holds networks, which are plain functions of t. The input is a code vector t of shape (..., D) with any
leading shape; the distribution returned has batch shape (...) and x's shape as event shape.

Which likelihood fits which x:

    real numbers (dequantized images too)   FixedNormal, DiagonalNormal, LowRankNormal
    0 or 1                                  Bernoulli
    [0, 1]                                  ContinuousBernoulli, a density
    k / (levels − 1), as 8-bit images       DiscretizedLogistic, a probability, which gives bits per dimension
    real numbers with outliers              StudentT
    amounts >= 0, many of them exactly 0    ZeroInflatedLogNormal
    counts 0, 1, 2, ...                     Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial
    classes 0, ..., K − 1                   Categorical
    a table of several of these             Columns
    real numbers missing not at random      Missingness, around a Gaussian likelihood

If Pyro's validation is on, x outside the support of the likelihood is an error.
"""

from .base import Likelihood
from .bernoulli import Bernoulli, ContinuousBernoulli
from .categorical import Categorical
from .counts.likelihood import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .discretized_logistic import DiscretizedLogistic
from .log_normal import ZeroInflatedLogNormal
from .low_rank import LowRankNormal
from .missingness.drawn import Drawn
from .missingness.likelihood import Missingness
from .missingness.self_masking import SelfMasking
from .normal import DiagonalNormal, FixedNormal
from .student_t import StudentT
from .tables import Columns

__all__ = [
    "Bernoulli",
    "Categorical",
    "Columns",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "Drawn",
    "FixedNormal",
    "Likelihood",
    "LowRankNormal",
    "Missingness",
    "NegativeBinomial",
    "Poisson",
    "SelfMasking",
    "StudentT",
    "ZeroInflatedLogNormal",
    "ZeroInflatedNegativeBinomial",
]
