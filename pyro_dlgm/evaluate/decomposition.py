r"""What `gaps` returns: estimates for each point with their errors, and what follows from them."""

from dataclasses import dataclass

from torch import Tensor

from .estimates import Estimate
from .marginal.estimate import Evidence

MIXES = (
    "q was trained on {objective}, not on the ELBO: what is called amortization gap mixes what the guide's parameters "
    "do not reach with what the objective did not ask of them"
)


@dataclass(frozen=True, kw_only=True)
class Gaps(Evidence):
    r"""log p(x) − F(q), taken apart; all of it per point, in nats. What `Evidence` holds comes first.

    Attributes:
        reached: F(q).
        families: F(q*) for each family that was fitted, the guide's own among them.
        own: the name of the guide's own family.
        amortization: F(q*) − F(q), by common random numbers.
        kept: where climbing brought nothing, so that q* is q, (B,).
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
        r"""log p(x) − F(q*): what the best q of the family leaves."""
        return self.log_px - self.families[self.own]

    @property
    def total(self) -> Estimate:
        r"""log p(x) − F(q) = KL(q ‖ posterior)."""
        return self.log_px - self.reached

    @property
    def late(self) -> list[int]:
        r"""The points of which an E-step had not converged."""
        return (~self.converged).nonzero().flatten().tolist()

    @property
    def notes(self) -> list[str]:
        r"""What to know before the numbers are read."""
        notes = [] if self.objective == "ELBO" else [MIXES.format(objective=self.objective)]
        if self.late:
            shown = ", ".join(map(str, self.late[:10])) + (", ..." if len(self.late) > 10 else "")
            notes.append(
                f"the E-step of {len(self.late)} of {len(self.converged)} points had not converged (rows {shown})"
            )
        if self.certificate is None:
            notes.append("no BDMC: nothing certifies the estimate of log p(x)")
        return notes

    def summary(self) -> dict:
        r"""Means over the points with standard errors, as plain values."""
        result = super().summary()
        names = ("reached", "approximation", "amortization", "total")
        result |= {name: getattr(self, name).summary() for name in names}
        result["families"] = {name: bound.summary() for name, bound in self.families.items()}
        result["gap_of"] = {name: (self.log_px - bound).summary() for name, bound in self.families.items()}
        result |= {"own_family": self.own, "objective": self.objective, "notes": self.notes}
        return result | {"kept": int(self.kept.sum()), "unconverged": len(self.late), "late": self.late}
