r"""Estimators with scikit-learn's face: `DeepLatentGaussian`, `DLGMImputer`, `PPCA`."""

from .imputer import DLGMImputer
from .latent_gaussian import DeepLatentGaussian
from .linear import PPCA

__all__ = ["DLGMImputer", "DeepLatentGaussian", "PPCA"]
