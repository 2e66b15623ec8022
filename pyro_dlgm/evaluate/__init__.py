r"""What judges a pair (model, guide): bounds on log p(x | w), the E-step alone, diagnostics, predictions."""

from .bounds import elbo, iwae, log_joint, log_mean_exp, log_weights
from .inference import Convergence, infer
from .predict import impute, reconstruct
from .weights import ess, pareto_k

__all__ = [
    "Convergence",
    "elbo",
    "ess",
    "impute",
    "infer",
    "iwae",
    "log_joint",
    "log_mean_exp",
    "log_weights",
    "pareto_k",
    "reconstruct",
]
