r"""Guides: where q comes from. Each is a Pyro program that samples t, and swaps for any other."""

from .amortized import Amortized
from .auto import Auto, auto
from .exact import Exact
from .guide import Guide
from .per_point import FullRank, MeanField, PerPoint, PointEstimate

__all__ = ["Amortized", "Auto", "Exact", "FullRank", "Guide", "MeanField", "PerPoint", "PointEstimate", "auto"]
