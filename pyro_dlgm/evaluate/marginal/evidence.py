r"""log p(x | w) with its certificate: the better of two estimates from one q, and BDMC at the same settings."""

from dataclasses import dataclass

from torch import Tensor

from ... import masks
from ...guides.programs.given import conditions, given_globals
from ...points import Points
from ...seeding import seeds
from ..bounds import log_weights
from ..estimates import Estimate
from .ais import ais
from .bdmc import BDMC, bdmc
from .path import Settings

WITHIN = 2  # standard errors of a difference that is no difference
STREAMS = 3  # of random numbers, which share nothing: IWAE, AIS, BDMC


@dataclass(frozen=True, kw_only=True)
class Evidence:
    r"""Estimates of log p(x | w) by AIS and by IWAE-K from one q, with the certificate of BDMC.

    Attributes:
        annealed, weighted: AIS and IWAE-K from one q, per point and in nats.
        num_samples: K.
        certificate: what `bdmc` says of AIS at this model, or `None`.
        conditions: the global latents that are held, and where; empty without any.
    """

    annealed: Estimate
    weighted: Estimate
    num_samples: int
    certificate: BDMC | None
    conditions: str = ""

    @property
    def log_px(self) -> Estimate:
        r"""log p(x | w): of two lower bounds in expectation the one with the larger mean over points.

        Within two Monte Carlo errors of their difference it is the one with the smaller error: there, the larger one
        would be too large by a part of their noise.
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
        r"""Means over the points with standard errors, as plain values."""
        result: dict = {"log_px": self.log_px.summary(), "points": len(self.annealed.value)}
        result["log_px_by"] = "AIS" if self.annealed_is_taken else f"IWAE-{self.num_samples}"
        result["ais"], result["iwae"] = self.annealed.summary(), self.weighted.summary()
        if self.certificate is not None:
            result["bdmc"] = {"gap": self.certificate.gap, "standard_error": self.certificate.stderr}
        if self.conditions:
            result["conditions"] = self.conditions
        return result


def check(num_samples: int, num_chains: int, num_temperatures: int, num_simulated: int) -> None:
    r"""Raises a `ValueError` on numbers that make no sense, before anything is spent on them."""
    if num_samples < 2:
        raise ValueError(f"num_samples is {num_samples}; expected at least 2, for a standard error")
    if num_simulated == 1 or num_simulated < 0:
        raise ValueError(f"num_simulated is {num_simulated}; expected at least 2 points, or 0 for no BDMC")
    Settings(num_chains, num_temperatures, num_leapfrog=1, target_acceptance=0.5, memory=1)


def evidence(
    model,
    judge,
    points: Tensor | Points,
    *,
    num_samples: int = 2000,
    num_chains: int = 16,
    num_temperatures: int = 500,
    num_simulated: int = 64,
    seed: int | None = None,
    progress: bool = False,
) -> Evidence:
    r"""Estimates log p(x | w) from a q that was fitted to x.

    Arguments:
        model: a `DLGM`.
        judge: a guide with rows for the points, from 0 on.
        points: data (B, ...), or `Points`.
        num_samples, num_chains, num_temperatures, num_simulated, seed, progress: as in `gaps`.
    """
    check(num_samples, num_chains, num_temperatures, num_simulated)
    model, judge = given_globals(model, judge)
    weighed, walked, simulated = seeds(STREAMS, seed)
    points = Points.of(points).numbered()
    settings = {"num_chains": num_chains, "num_temperatures": num_temperatures, "progress": progress}
    walks = ais(model, judge, points, seed=walked, **settings)
    bounds = None
    if num_simulated:
        pixels = None if points.mask is None else masks.pixelwise(points.mask, points.x.dim())
        like = {"mask": masks.dealt(pixels, num_simulated), "given": points.given}
        bounds = bdmc(model, judge, num_simulated, **like, seed=simulated, **settings)
    return Evidence(
        annealed=Estimate(walks.log_px, walks.stderr),
        weighted=Estimate.log_mean_exp(log_weights(model, judge, points, None, num_samples, seed=weighed)),
        num_samples=num_samples,
        certificate=bounds,
        conditions=conditions(model),
    )
