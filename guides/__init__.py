r"""Guides: where q comes from. Each is a Pyro program that samples t, and swaps for any other."""

from .amortized import Amortized
from .autoguides import Auto, auto
from .base import Guide
from .chain import Chain
from .exact import Exact
from .hybrid import Hybrid
from .per_point import FullRank, MeanField, PerPoint, PointEstimate

__all__ = [
    "Amortized",
    "Auto",
    "Chain",
    "Exact",
    "FullRank",
    "Guide",
    "Hybrid",
    "MeanField",
    "PerPoint",
    "PointEstimate",
    "auto",
]
