r"""Guides: where q comes from. Each is a Pyro program that samples t, and swaps for any other."""

from .amortized import Amortized
from .auto import Auto, auto
from .chain import Chain
from .exact import Exact
from .guide import Guide
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
