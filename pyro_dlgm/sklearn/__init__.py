r"""Estimators with the API of scikit-learn: `DeepLatentGaussian`, `DLGMImputer`, `PPCA`.

`EXCEPTIONS` lists the checks of scikit-learn that the first two fail, each with the reason:
``check_estimator(DeepLatentGaussian(), expected_failed_checks=EXCEPTIONS)``. `PPCA` passes all.
"""

from .imputer import DLGMImputer
from .latent_gaussian import DeepLatentGaussian
from .linear import PPCA
from .trained import EXCEPTIONS

__all__ = ["EXCEPTIONS", "PPCA", "DLGMImputer", "DeepLatentGaussian"]
