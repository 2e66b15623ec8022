r"""Chains run until nothing more changes: convergence for each point, by split R-hat and bulk ESS.

References:
    Vehtari, Gelman, Simpson, Carpenter, Bürkner, "Rank-normalization, folding, and localization: an improved R-hat for
    assessing convergence of MCMC" (2021), with both thresholds. https://arxiv.org/abs/1903.08008
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .. import hmc
from .kernel import Kernel

R_HAT, ESS = 1.01, 400
KEPT = 100  # draws of each chain; the first round takes as many


def rounds(max_transitions: int) -> Iterator[int]:
    r"""Numbers of draws n = 100, 200, 400, ..., each behind n / 2 transitions that only learn, within a bound.

    The first round is made in any case.
    """
    num, left = KEPT, max_transitions
    while num == KEPT or num + num // 2 <= left:
        yield num
        left -= num + num // 2
        num *= 2


def draw(kernel: Kernel, state: hmc.State, num: int) -> tuple[hmc.State, Tensor]:
    r"""``num`` draws of each chain, (num, M, B, D), behind half as many transitions that only learn.

    While it draws, the kernel stays as it is: only then the draws are those of a Markov chain.
    """
    for _ in range(num // 2):
        state = kernel.transition(state)
    draws = []
    for _ in range(num):
        state, _ = kernel.step(state)
        draws.append(state.t)
    return state, torch.stack(draws)


def converged(draws: Tensor) -> Tensor:
    r"""Whether the worst dimension of each point has split R-hat < 1.01 and a bulk ESS > 400.

    Arguments:
        draws: (S, M, B, D).

    Returns:
        Booleans (B,).
    """
    r_hat, ess = diagnostics(draws)
    return (r_hat.amax(-1) < R_HAT) & (ess.amin(-1) > ESS)


def diagnostics(draws: Tensor) -> tuple[Tensor, Tensor]:
    r"""Rank-normalized split R-hat and bulk ESS of each point and dimension, (B, D), of draws (S, M, B, D)."""
    import arviz  # imported here: it is slow to import, and only chains need it

    table = arviz.convert_to_dataset({"t": draws.transpose(0, 1).cpu().double().numpy()})
    found = (arviz.rhat(table, method="rank"), arviz.ess(table, method="bulk"))
    return tuple(torch.as_tensor(v["t"].values, device=draws.device) for v in found)
