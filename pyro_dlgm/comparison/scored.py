r"""What the cells of a row are filled from: scores, certificates and costs, and why a cell is empty."""

from dataclasses import dataclass

from torch import Tensor

from ..evaluate.estimates import Mean
from ..evaluate.marginal.certificate import doubts, verdicts

NO_DENSITY = "a point mass or a chain has no density, so F(q) does not exist"
NO_LOG_PX = "log p(x) was not estimated; leave out --no-ais, in Python certify=Certify()"
NO_GAPS = "gaps were not asked for"
NO_GAP = "a point mass or a chain has no F(q), and a q that is not Gaussian no best one of its family: so no gap"


WEIGHTS = ("ess", "pareto_k")


class Reason(str):
    r"""Why a cell is empty."""


@dataclass
class Scored:
    r"""The scores, certificates and costs that the cells of a row are filled from.

    Attributes:
        training: the last record of the training's history.
        own: `point_scores` of the row's q.
        certified: the summary of `evaluate.gaps` or `evaluate.evidence`; empty if log p(x) was not asked for.
        gaps_asked: whether gaps were asked for.
        gradients_per_point: of the row's own E-step.
        unconverged: test points where its E-step had not converged.
        scales_at_floor: pixel scales of the likelihood that touch their floor, or `None` where there is no floor.
        seconds: wall time of the scoring; of its halves, of w and of q, if they are done at the same time, the sum.
        log_px: log p(x) of the certified points, or `None` if it was not asked for.
        reference: the name of the first row, and its ``log_px``.
        conditions: the global latents at which the points were scored, in words; empty without any.
    """

    training: dict
    own: dict[str, Tensor]
    certified: dict
    gaps_asked: bool
    gradients_per_point: float
    unconverged: int
    scales_at_floor: int | None
    seconds: float
    log_px: Tensor | None
    reference: tuple[str, Tensor | None]
    conditions: str = ""

    def bound(self, name: str) -> Mean | Reason:
        r"""A bound of the row's q."""
        return Mean.of(self.own[name]) if name in self.own else Reason(NO_DENSITY)

    def certificate(self, name: str) -> Mean | Reason:
        r"""A certified mean: "log_px", or a gap."""
        if name in self.certified:
            return Mean(self.certified[name]["mean"], self.certified[name]["standard_error"])
        return Reason(NO_GAP if self.gaps_asked else NO_GAPS) if self.certified else Reason(NO_LOG_PX)

    def bdmc_gap(self) -> Mean | Reason:
        r"""The gap of BDMC, which bounds the error of AIS."""
        found = self.certified.get("bdmc")
        return Mean(found["gap"], found["standard_error"]) if found else Reason(NO_LOG_PX)

    def not_certified(self) -> str | Reason:
        r"""That log p(x), or what would be said of the gap, is not certified, and why; empty where it is."""
        if not self.certified:
            return Reason(NO_LOG_PX)
        return " ".join(doubts(verdicts(self.certified, self.certified.get("bdmc"))))

    def uncertain(self) -> int | Reason:
        r"""At how many points walks do not agree on log p(x)."""
        return self.certified.get("uncertain", Reason(NO_LOG_PX))

    def certified_points(self) -> int | Reason:
        r"""How many test points were certified."""
        return self.certified["points"] if self.certified else Reason(NO_LOG_PX)

    def certifying(self) -> float | Reason:
        r"""Gradient evaluations of a certified point, for log p(x) with all that certifies it."""
        return self.certified.get("gradients_per_point", Reason(NO_LOG_PX))

    def gaps(self) -> dict | Mean | Reason:
        r"""The summary of `evaluate.gaps`."""
        return self.certified if "total" in self.certified else self.certificate("total")

    def difference(self) -> dict | Reason:
        r"""The paired difference between log p(x) of this row and that of the first one."""
        name, log_px = self.reference
        return Reason(NO_LOG_PX) if self.log_px is None else Mean.of(self.log_px - log_px)._asdict() | {"to": name}


def median(scores: dict[str, Tensor], name: str) -> float | Reason:
    r"""The median over the points of a diagnostic of the weights."""
    return float(scores[name].median()) if name in scores else Reason(NO_DENSITY)
