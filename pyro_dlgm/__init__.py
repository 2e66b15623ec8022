r"""Deep latent Gaussian models on Pyro: one generative model, guides that swap.

p(x | w) = ∫ p(x | t, w) p(t) dt,    p(t) = N(0, I),    p(x | t, w) = N(μ(t, w), Σ(t, w)).
"""

from . import data, evaluate, guides, likelihoods, nets, objectives, priors
from .compare import compare
from .fit import Result, fit
from .loading import load
from .model import DLGM
from .ppca import PPCA
from .svi import SVI

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
