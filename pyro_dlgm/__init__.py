r"""Deep latent Gaussian models on Pyro: one generative model, interchangeable guides.

p(x | w) = ∫ p(x | t, w) p(t) dt,    p(t) = N(0, I),    p(x | t, w) = N(μ(t, w), Σ(t, w)).

Names are imported at first use: ``import pyro_dlgm`` alone, and the help of the command line, do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import data, evaluate, guides, likelihoods, nets, objectives, plots, priors, sklearn  # noqa: F401
    from .comparison.comparison import compare as compare
    from .comparison.seeds.over_seeds import compare_seeds as compare_seeds
    from .latents.local import LocalModel as LocalModel
    from .model import DLGM as DLGM
    from .optim.svi import SVI as SVI
    from .points import Points as Points
    from .ppca.model import PPCA as PPCA
    from .recipes.foreign import adopt as adopt
    from .runs.load import load as load
    from .sklearn.latent_gaussian import DeepLatentGaussian as DeepLatentGaussian
    from .training.fit import fit as fit
    from .training.handover import to_encoder as to_encoder
    from .training.handover import to_rows as to_rows
    from .training.loop.result import Result as Result

_PLACES = {
    "DLGM": "model",
    "PPCA": "ppca.model",
    "SVI": "optim.svi",
    "Result": "training.loop.result",
    "load": "runs.load",
}
_PLACES |= {"Points": "points", "compare": "comparison.comparison", "fit": "training.fit"}
_PLACES |= {"compare_seeds": "comparison.seeds.over_seeds"}
_PLACES |= {"adopt": "recipes.foreign", "DeepLatentGaussian": "sklearn.latent_gaussian"}
_PLACES |= {"LocalModel": "latents.local", "to_rows": "training.handover", "to_encoder": "training.handover"}
_MODULES = ("data", "evaluate", "guides", "likelihoods", "nets", "objectives", "plots", "priors", "sklearn")
__all__ = [*_PLACES, *_MODULES]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'pyro_dlgm' has no attribute {name!r}; it has {', '.join(__all__)}")
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    value = getattr(import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
