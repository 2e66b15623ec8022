r"""Deep latent Gaussian models on Pyro: one generative model, guides that swap.

p(x | w) = ∫ p(x | t, w) p(t) dt,    p(t) = N(0, I),    p(x | t, w) = N(μ(t, w), Σ(t, w)).

A name is imported at its first use: ``import pyro_dlgm`` alone, and the command line's help, need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import data, evaluate, guides, likelihoods, nets, objectives, plots, priors
    from .comparison.comparison import compare
    from .model import DLGM
    from .optim.svi import SVI
    from .ppca.model import PPCA
    from .runs.load import load
    from .training.fit import fit
    from .training.loop import Result

# Where names are that are no modules of this package.
_PLACES = {
    "DLGM": "model",
    "PPCA": "ppca.model",
    "SVI": "optim.svi",
    "Result": "training.loop",
    "compare": "comparison.comparison",
    "fit": "training.fit",
    "load": "runs.load",
}
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
    "plots",
    "priors",
]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'pyro_dlgm' has no attribute {name!r}; it has {', '.join(__all__)}")
    if name not in _PLACES:
        return import_module(f".{name}", __name__)
    value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
