r"""Deep latent Gaussian models on Pyro: one generative model, guides that swap.

p(x | w) = ∫ p(x | t, w) p(t) dt,    p(t) = N(0, I),    p(x | t, w) = N(μ(t, w), Σ(t, w)).
"""

from . import data, evaluate, guides, likelihoods, nets, objectives, priors
from .comparison.comparison import compare
from .model import DLGM
from .optim.svi import SVI
from .ppca.model import PPCA
from .runs.load import load
from .training.fit import Result, fit

__all__ = [
    "DLGM",
    "PPCA",
    "SVI",
    "Result",
    "compare",
    "data",
    "evaluate",
    "fit",
    "guides",
    "likelihoods",
    "load",
    "nets",
    "objectives",
    "priors",
]
__version__ = "0.1.0"
