r"""Objectives, as losses for Pyro's SVI: −F(q, w), tempered or not, and bounds from importance weights.

A loss is summed over the plate with its scale, so that with ``size=N`` it estimates the loss of all N points.
"""

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from .elbo import ELBO
from .free_bits import FreeBits
from .importance import IWAE, DReG
from .tempered import Tempered

__all__ = ["ELBO", "IWAE", "DReG", "FreeBits", "Tempered", "TraceMeanField_ELBO", "Trace_ELBO"]
