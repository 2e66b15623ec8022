r"""Guides: Pyro programs that sample t from q. Any of them can take the place of any other."""

from .amortized import Amortized
from .autoguides import Auto, auto
from .base import Guide
from .chains.chain import Chain
from .chains.hybrid import Hybrid
from .exact import Exact
from .flow import Flow, FlowRows
from .laplace import Laplace
from .per_point import FullRank, MeanField, PerPoint, PointEstimate
from .programs.auto import AutoAmortized, AutoPerPoint
from .programs.auto_local import AutoLocal
from .semi_amortized import SemiAmortized

__all__ = [
    "Amortized",
    "Auto",
    "AutoAmortized",
    "AutoLocal",
    "AutoPerPoint",
    "Chain",
    "Exact",
    "Flow",
    "FlowRows",
    "FullRank",
    "Guide",
    "Hybrid",
    "Laplace",
    "MeanField",
    "PerPoint",
    "PointEstimate",
    "SemiAmortized",
    "auto",
]
