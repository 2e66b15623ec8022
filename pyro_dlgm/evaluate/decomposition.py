r"""What `gaps` returns: estimates for each point with their errors, and what follows from them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .bdmc import BDMC
from .bounds import log_mean_exp
from .errors import log_mean_exp_error

MIXES = (
    "q was trained on {objective}, not on the ELBO: what is called amortization gap mixes what the guide's parameters "
    "do not reach with what the objective did not ask of them"
)


@dataclass(frozen=True)
class Estimate:
    r"""An estimate for each point.

    Attributes:
        value: (B,), in nats.
        stderr: its Monte Carlo standard error, (B,).
    """

    value: Tensor
    stderr: Tensor

    @classmethod
    def mean(cls, table: Tensor) -> "Estimate":
        r"""The mean over the first axis of (K, B): of log-weights, the ELBO."""
        return cls(table.mean(0), table.std(0) / len(table) ** 0.5)

    @classmethod
    def log_mean_exp(cls, table: Tensor) -> "Estimate":
        r"""The log-mean-exp over the first axis of (K, B): of log-weights, IWAE-K."""
        return cls(log_mean_exp(table), log_mean_exp_error(table))

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, torch.hypot(self.stderr, other.stderr))

    def summary(self) -> dict[str, float | None]:
        r"""The mean over points, its standard error over points, and the Monte Carlo part of it."""
        B = len(self.value)
        spread = float(self.value.std()) / math.sqrt(B) if B > 1 else None
        monte_carlo = float(self.stderr.square().sum().sqrt()) / B
        return {"mean": float(self.value.mean()), "standard_error": spread, "monte_carlo_error": monte_carlo}


@dataclass(frozen=True)
class Gaps:
    r"""log p(x) − F(q), taken apart; all of it per point, in nats.

    Attributes:
        reached: F(q).
        families: F(q*) for each family that was fitted, the guide's own among them.
        own: the name of the guide's own family.
        amortization: F(q*) − F(q), by common random numbers.
        annealed, weighted: AIS and IWAE-K from q*, the full-rank one if there is one.
        num_samples: K.
        certificate: what `bdmc` says of AIS at this model, or `None`.
        kept: where climbing brought nothing, so that q* is q, (B,).
        converged: whether all E-steps had converged, (B,).
        objective: what the guide was trained on.
    """

    reached: Estimate
    families: dict[str, Estimate]
    own: str
    amortization: Estimate
    annealed: Estimate
    weighted: Estimate
    num_samples: int
    certificate: BDMC | None
    kept: Tensor
    converged: Tensor
    objective: str

    @property
    def log_px(self) -> Estimate:
        r"""log p(x | w): of two lower bounds in expectation the one with the larger mean over points."""
        return self.annealed if self.annealed_is_larger else self.weighted

    @property
    def annealed_is_larger(self) -> bool:
        r"""Whether that is AIS."""
        return bool(self.annealed.value.mean() >= self.weighted.value.mean())

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
        names = ("log_px", "reached", "approximation", "amortization", "total")
        result: dict = {name: getattr(self, name).summary() for name in names}
        result["families"] = {name: bound.summary() for name, bound in self.families.items()}
        result["gap_of"] = {name: (self.log_px - bound).summary() for name, bound in self.families.items()}
        result |= {"own_family": self.own, "points": len(self.converged), "objective": self.objective}
        result["log_px_by"] = "AIS" if self.annealed_is_larger else f"IWAE-{self.num_samples}"
        result["ais"], result["iwae"] = self.annealed.summary(), self.weighted.summary()
        if self.certificate is not None:
            result["bdmc"] = {"gap": self.certificate.gap, "standard_error": self.certificate.stderr}
        late = {"unconverged": len(self.late), "late": self.late}
        return result | {"kept": int(self.kept.sum()), "notes": self.notes} | late
