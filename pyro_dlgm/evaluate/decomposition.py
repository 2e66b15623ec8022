r"""The result of `gaps`: log p(x) − F(q) and its parts."""

from dataclasses import dataclass

from torch import Tensor

from .. import messages
from .estimates import Estimate
from .marginal.certificate import doubts, verdicts
from .marginal.estimate import Evidence

MIXES = (
    "q was trained on {objective}, not on the ELBO: the amortization gap then mixes what the guide's parameters miss "
    "with what the objective did not ask of them"
)


@dataclass(frozen=True, kw_only=True)
class Gaps(Evidence):
    r"""The decomposition of log p(x) − F(q) per point, in nats, in addition to the fields of `Evidence`.

    Attributes:
        reached: F(q).
        families: F(q*) for each fitted family, including the guide's own.
        own: the name of the guide's own family.
        amortization: F(q*) − F(q), by common random numbers.
        kept: where optimization gained nothing, so that q* is q, (B,).
        converged: whether all E-steps had converged, (B,).
        objective: what the guide was trained on.
    """

    reached: Estimate
    families: dict[str, Estimate]
    own: str
    amortization: Estimate
    kept: Tensor
    converged: Tensor
    objective: str

    @property
    def approximation(self) -> Estimate:
        r"""log p(x) − F(q*): the gap of the best q of the family."""
        return self.log_px - self.families[self.own]

    @property
    def total(self) -> Estimate:
        r"""log p(x) − F(q) = KL(q ‖ posterior)."""
        return self.log_px - self.reached

    @property
    def late(self) -> list[int]:
        r"""The points whose E-step had not converged."""
        return (~self.converged).nonzero().flatten().tolist()

    @property
    def notes(self) -> list[str]:
        r"""Notes on the numbers: the objective, points that did not converge, what is not certified."""
        notes = [] if self.objective == "ELBO" else [MIXES.format(objective=self.objective)]
        if self.late:
            late = f"{len(self.late)} of {len(self.converged)} points"
            notes.append(f"the E-step of {late} had not converged ({messages.rows(self.late)})")
        if self.certificate is None:
            return [*notes, "no BDMC: nothing certifies the estimate of log p(x)"]
        return notes + [line.rstrip(".") for line in doubts(self.verdicts)] + ([self.apart] if self.apart else [])

    @property
    def verdicts(self) -> list[str]:
        r"""Which part of the gap is larger, or that log p(x) is not certified well enough to tell."""
        found = self._numbers()
        return verdicts(found, found.get("bdmc"))

    def summary(self) -> dict:
        r"""Returns means over the points with standard errors, as plain values."""
        result = self._numbers() | {"objective": self.objective, "notes": self.notes}
        return result | {"kept": int(self.kept.sum()), "unconverged": len(self.late), "late": self.late}

    def _numbers(self) -> dict:
        result = super().numbers() | {"own_family": self.own}
        names = ("reached", "approximation", "amortization", "total")
        result |= {name: getattr(self, name).summary() for name in names}
        result["families"] = {name: bound.summary() for name, bound in self.families.items()}
        result["gap_of"] = {name: (self.log_px - bound).summary() for name, bound in self.families.items()}
        return result
