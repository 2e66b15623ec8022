r"""Evaluation of a pair (model, guide): bounds on log p(x | w), the E-step alone, diagnostics, predictions."""

from ..guides.programs.given import given_globals
from .bounds import elbo, iwae, log_joint, log_mean_exp, log_weights
from .decomposition import Gaps
from .diagnostics.calibration import Calibration, Coverage, check_calibration
from .diagnostics.clusters import cluster_probabilities
from .diagnostics.diagnose import Diagnosis, diagnose
from .e_step.climb import Convergence
from .e_step.infer import infer
from .importance import ess, pareto_k
from .imputation.filling import impute
from .imputation.held_out import check_imputations
from .imputation.scored import Imputations
from .inference_gap import gaps
from .marginal.annealing.ais import AIS, ais
from .marginal.annealing.bdmc import BDMC, bdmc
from .marginal.estimate import Evidence
from .marginal.evidence import evidence
from .marginal.quadrature import quadrature
from .predict import reconstruct

__all__ = [
    "AIS",
    "BDMC",
    "Calibration",
    "Convergence",
    "Coverage",
    "Diagnosis",
    "Evidence",
    "Gaps",
    "Imputations",
    "ais",
    "bdmc",
    "check_calibration",
    "check_imputations",
    "cluster_probabilities",
    "diagnose",
    "elbo",
    "ess",
    "evidence",
    "gaps",
    "given_globals",
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
