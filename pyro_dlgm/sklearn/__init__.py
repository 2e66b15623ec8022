r"""Estimators with scikit-learn's face: `DeepLatentGaussian`, `DLGMImputer`, `PPCA`.

`EXCEPTIONS` are the checks of scikit-learn that the first two do not pass, each with its reason:
``check_estimator(DeepLatentGaussian(), expected_failed_checks=EXCEPTIONS)``. `PPCA` passes all.
"""

from .imputer import DLGMImputer
from .latent_gaussian import DeepLatentGaussian
from .linear import PPCA
from .trained import EXCEPTIONS

__all__ = ["EXCEPTIONS", "PPCA", "DLGMImputer", "DeepLatentGaussian"]
