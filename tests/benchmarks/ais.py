r"""AIS and BDMC against the evidence of PPCA, which is known, at the size that the documentation speaks of."""

import argparse
import sys
import time

import measure
import torch

from pyro_dlgm import PPCA, guides
from pyro_dlgm.evaluate.marginal.annealing.ais import ais
from pyro_dlgm.evaluate.marginal.annealing.bdmc import bdmc

TOLERANCE = 0.02  # nats per point, of the signed mean of AIS − log p(x)
T_INTERVAL = 0.936  # P(|t| < 2) with 15 degrees of freedom: 16 chains estimate their own standard error


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Anneals from the best factorized q of a PPCA with a random W, which q misses by whole nats, and "
        f"compares with its exact evidence. Wanted: |mean error| <= {TOLERANCE} nats per point, errors covered by the "
        "standard errors, and bounds of BDMC on their sides of the truth.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=200, help="points, drawn from the model")
    parser.add_argument("--latents", type=int, default=16, help="the number D of latents")
    parser.add_argument("--features", type=int, default=48, help="the number P of features")
    parser.add_argument("--chains", type=int, default=16, help="chains of a point")
    parser.add_argument("--temperatures", type=int, default=500, help="the number T of temperatures")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of W, of the points and of the walks")
    parser.add_argument("--out", default="runs/bench", help="folder for ais.json")
    return parser.parse_args()


@torch.no_grad()
def linear(a: argparse.Namespace) -> tuple[PPCA, torch.Tensor]:
    r"""A PPCA with a random W, and points of it."""
    torch.manual_seed(a.seed)
    ppca = PPCA(a.latents, a.features)
    ppca.set(torch.randn(a.features, a.latents), torch.randn(a.features), torch.tensor(1.0))
    return ppca, ppca(size=a.points)


@torch.no_grad()
def factorized(ppca: PPCA, x: torch.Tensor) -> tuple[guides.MeanField, float]:
    r"""The best factorized q of each point, in closed form, and its gap ½ (Σ_j log M_jj − log det M)."""
    M = ppca.W.mT @ ppca.W + ppca.sigma2 * torch.eye(ppca.W.shape[1])
    log_scale = 0.5 * (ppca.sigma2 / M.diagonal()).log()
    rows = torch.cat([ppca.posterior(x).mean, log_scale.expand(len(x), -1)], 1)
    return guides.MeanField(*rows[:, : len(M)].shape).set_rows(rows), float(
        0.5 * (M.diagonal().log().sum() - torch.logdet(M))
    )


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    r"""The mean over points and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def main() -> int:
    r"""Measures, prints, writes; the exit status is the number of claims that do not hold."""
    a = arguments()
    measure.use_threads(a.threads)
    ppca, x = linear(a)
    guide, gap = factorized(ppca, x)
    begin = time.perf_counter()
    walks = ais(ppca, guide, x, torch.arange(len(x)), a.chains, a.temperatures, seed=a.seed)
    seconds = time.perf_counter() - begin
    error = walks.log_px - ppca.log_prob(x).detach()
    sandwich = bdmc(ppca, guides.Exact(ppca), 8, 2, 2, seed=a.seed)  # from the posterior itself: no gap but rounding
    certificate = bdmc(ppca, None, len(x), a.chains, a.temperatures, seed=a.seed)
    exact = ppca.log_prob(certificate.x).detach()
    signed, below, above = (mean_and_error(v) for v in (error, exact - certificate.lower, certificate.upper - exact))
    covered = float((error.abs() < 2 * walks.stderr).double().mean())
    fewest = T_INTERVAL - 3 * (T_INTERVAL * (1 - T_INTERVAL) / len(x)) ** 0.5
    claims = {
        f"AIS − exact {signed[0]:+.4f} ± {signed[1]:.4f} nats per point, at a gap of q of {gap:.2f}": abs(signed[0])
        <= TOLERANCE,
        f"errors within 2 standard errors: {covered:.3f} of the points, wanted {fewest:.3f}": covered >= fewest,
        f"BDMC from the prior: exact − lower {below[0]:+.4f} ± {below[1]:.4f}": below[0] > -3 * below[1],
        f"BDMC from the prior: upper − exact {above[0]:+.4f} ± {above[1]:.4f}": above[0] > -3 * above[1],
        f"BDMC from the posterior: gap {sandwich.gap:.1e}": abs(sandwich.gap) < 1e-3,
    }
    for claim, holds in claims.items():
        print(f"{'ok    ' if holds else 'FAILED'} {claim}")
    acceptance, diverged = float(walks.acceptance.mean()), int(walks.divergences.sum())
    print(f"{seconds:.1f} s, acceptance {acceptance:.2f}, {diverged} divergences")
    path = measure.save(
        a.out, "ais", arguments=vars(a), error=signed, covered=covered, seconds=seconds, lower=below, upper=above
    )
    print(f"Written: {path}")
    return len(claims) - sum(claims.values())


if __name__ == "__main__":
    sys.exit(main())
