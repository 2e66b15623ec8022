r"""The result of `evidence`: estimates of log p(x | w) with their certificate."""

from dataclasses import dataclass

from torch import Tensor

from ... import messages
from ..estimates import Estimate
from .annealing.bdmc import BDMC
from .certificate import doubt

WITHIN = 2  # standard errors within which two estimates count as equal


@dataclass(frozen=True, kw_only=True)
class Evidence:
    r"""Estimates of log p(x | w) by AIS and by IWAE-K from one q, with the certificate of BDMC.

    Attributes:
        annealed, weighted: AIS and IWAE-K from one q, per point and in nats.
        num_samples: the number K.
        certificate: the result of `bdmc` for AIS with this model, or `None`.
        conditions: the values at which global latents are held; empty without any.
        tol: the requested accuracy, in nats; this field and those below are set only without a judge.
        num_temperatures: the number found by the pilot, or given.
        uncertain: the points at which walks do not agree, (B,): the variance of their log-weights is above 1.
        refitted: the points whose walks start at a full-rank E-step, (B,).
        gradients_per_point: gradient evaluations of log p(x, t) in total, including pilot, certificate, and one for
            each sample of IWAE.
    """

    annealed: Estimate
    weighted: Estimate
    num_samples: int
    certificate: BDMC | None
    conditions: str = ""
    tol: float | None = None
    num_temperatures: int | None = None
    uncertain: Tensor | None = None
    refitted: Tensor | None = None
    gradients_per_point: float | None = None

    @property
    def notes(self) -> list[str]:
        r"""Notes on what is not certified: the mean, and points at which walks do not agree."""
        return [] if self.tol is None else [note for note in (doubt(self.bounds, self.tol), self.apart) if note]

    @property
    def bounds(self) -> dict | None:
        r"""The gap of BDMC and its standard error, in nats, or `None` without one."""
        found = self.certificate
        return None if found is None else {"gap": found.gap, "standard_error": found.stderr}

    @property
    def apart(self) -> str | None:
        r"""A note on the points at which walks do not agree; `None` without any, and with a judge."""
        late = [] if self.uncertain is None else self.uncertain.nonzero().flatten().tolist()
        if not late:
            return None
        return f"walks do not agree on log p(x) at {len(late)} of {len(self.uncertain)} points ({messages.rows(late)})"

    @property
    def log_px(self) -> Estimate:
        r"""log p(x | w): of two lower bounds in expectation, the one with the larger mean over points.

        If they differ by less than two Monte Carlo errors it is the one with the smaller error, since choosing the
        larger one would be biased upwards by noise.
        """
        return self.annealed if self.annealed_is_taken else self.weighted

    @property
    def annealed_is_taken(self) -> bool:
        r"""Whether ``log_px`` is the estimate of AIS."""
        by = (self.annealed - self.weighted).summary()
        errors = [float(each.stderr.square().sum()) for each in (self.annealed, self.weighted)]
        if by["monte_carlo_error"] is not None and abs(by["mean"]) <= WITHIN * by["monte_carlo_error"]:
            return errors[0] <= errors[1]
        return by["mean"] >= 0

    def summary(self) -> dict:
        r"""Returns means over the points with standard errors, and notes, as plain values."""
        return self.numbers() | ({} if self.tol is None else {"notes": self.notes})

    def numbers(self) -> dict:
        r"""Returns the `summary` without the notes, which are derived from it."""
        result: dict = {"log_px": self.log_px.summary(), "points": len(self.annealed.value)}
        result["log_px_by"] = "AIS" if self.annealed_is_taken else f"IWAE-{self.num_samples}"
        result["ais"], result["iwae"] = self.annealed.summary(), self.weighted.summary()
        if self.certificate is not None:
            result["bdmc"] = self.bounds
        if self.conditions:
            result["conditions"] = self.conditions
        if self.tol is not None:
            result |= {name: getattr(self, name) for name in ("tol", "num_temperatures", "gradients_per_point")}
            result |= {name: int(getattr(self, name).sum()) for name in ("uncertain", "refitted")}
        return result
