r"""Bidirectional Monte Carlo: log p(x | w) between a lower and an upper bound, on data that the model made itself.

For x simulated with its t, that t is an exact draw of the posterior. Annealing upwards from q bounds log p(x | w) from
below, annealing downwards from that t bounds it from above (both in expectation), and the difference bounds the error
of either. It certifies the estimator for points like those of the model, with this guide and these settings.

References:
    Grosse, Ghahramani, Adams, "Sandwiching the marginal likelihood using bidirectional Monte Carlo" (2015).
    https://arxiv.org/abs/1511.02543
    Wu, Burda, Salakhutdinov, Grosse, "On the quantitative analysis of decoder-based generative models" (2017),
    section 4.2. https://arxiv.org/abs/1611.04273
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...guides.base import adapted
from ...seeding import forked, seeds
from ..bounds import log_mean_exp
from ..e_step import infer
from ..estimates import Mean
from ..quiet import quiet
from .ais import joined
from .blocks import Settings, annealers, annealing, check_start


@dataclass(frozen=True)
class BDMC:
    r"""What `bdmc` returns: bounds on log p(x | w) of each simulated point, in nats.

    Attributes:
        lower: the log-mean-exp of the weights upwards, (M,), a lower bound in expectation: what `ais` estimates.
        upper: minus that of the inverse weights downwards, (M,), an upper bound in expectation.
        x: the simulated points (M, ...).
        t: the codes they were made from (M, D).
        diverged: transitions that diverged, in both directions, (M,).
    """

    lower: Tensor
    upper: Tensor
    x: Tensor
    t: Tensor
    diverged: Tensor

    @property
    def gap(self) -> float:
        r"""The mean of upper − lower, in nats per point."""
        return self._gap().mean

    @property
    def stderr(self) -> float:
        r"""The standard error of the gap over points."""
        return self._gap().standard_error

    def _gap(self) -> Mean:
        return Mean.of(self.upper - self.lower)


def bdmc(
    model,
    guide=None,
    num_points: int = 64,
    num_chains: int = 16,
    num_temperatures: int = 500,
    *,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    mask: Tensor | None = None,
    memory: int = 2**28,
    seed: int | None = None,
    progress: bool = False,
) -> BDMC:
    r"""Brackets log p(x | w) of points that the model simulates.

    A guide with rows for each point gets rows for the simulated ones first, with w frozen (`infer`).

    Arguments:
        model: a `DLGM`.
        guide: as in `ais`; `None` anneals from the prior.
        num_points: the number M of points to simulate.
        mask: boolean, which pixels of a simulated point are observed, of the shape of one point or of all M.
        num_chains, num_temperatures, num_leapfrog, target_acceptance, memory, seed, progress: as in `ais`.

    Returns:
        A `BDMC` with ``lower`` and ``upper`` (M,), ``gap`` and its ``stderr``, in nats.

    Raises:
        TypeError: if the guide has no `posterior`, or one without a density.
        ValueError: on numbers that make no sense.
    """
    settings = Settings(num_chains, num_temperatures, num_leapfrog, target_acceptance, memory)
    if num_points < 2:
        raise ValueError(f"num_points is {num_points}; expected at least 2, for a standard error")
    check_start(guide)
    # A seed for each: a walk that met again the random numbers that made its point would not be independent of it.
    made, fitted, walked = seeds(3, seed)
    t, x = simulate(model, num_points, made)
    mask = None if mask is None else mask.expand(x.shape)
    q = infer(model, guide, x, mask=mask, seed=fitted) if adapted(guide).per_point else guide
    index = torch.arange(num_points, device=x.device)
    up, down, done = [], [], 0
    with annealing(model, q, seed=walked):
        for annealer in annealers(model, q, x, index, mask, settings, sweeps=2, progress=progress):
            up.append(annealer.upwards())
            down.append(annealer.downwards(t[done : done + annealer.num_points]))
            done += annealer.num_points
    lower, upper = log_mean_exp(joined(up, "log_weights")), -log_mean_exp(-joined(down, "log_weights"))
    return BDMC(lower, upper, x, t, joined(up, "diverged").sum(0) + joined(down, "diverged").sum(0))


@torch.no_grad()
def simulate(model, num_points: int, seed: int | None) -> tuple[Tensor, Tensor]:
    r"""Codes t (M, D) and points x (M, ...) from p(t) p(x | t, w); the global generator stays as it was."""
    with quiet(model), forked(seed):
        t = model.prior().sample((num_points,))
        return t, model.likelihood(t).sample()
