r"""What judges a pair (model, guide): bounds on log p(x | w), the E-step alone, diagnostics, predictions."""

from .ais import AIS, ais
from .bdmc import BDMC, bdmc
from .bounds import elbo, iwae, log_joint, log_mean_exp, log_weights
from .calibration import Calibration, Coverage, check_calibration
from .decomposition import Gaps
from .diagnostics import Diagnosis, diagnose
from .evidence import Evidence, evidence
from .gaps import gaps
from .inference import Convergence, infer
from .predict import impute, reconstruct
from .quadrature import quadrature
from .weights import ess, pareto_k

__all__ = [
    "AIS",
    "BDMC",
    "Calibration",
    "Convergence",
    "Coverage",
    "Diagnosis",
    "Evidence",
    "Gaps",
    "ais",
    "bdmc",
    "check_calibration",
    "diagnose",
    "elbo",
    "ess",
    "evidence",
    "gaps",
    "impute",
    "infer",
    "iwae",
    "log_joint",
    "log_mean_exp",
    "log_weights",
    "pareto_k",
    "quadrature",
    "reconstruct",
]
