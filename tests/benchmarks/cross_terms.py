r"""How fast the cross terms of an agnostic mechanism learn decides which direction it finds.

Tables of one factor, 400 rows and three columns, the first of which hides high values: P(missing) = σ(4 x). For each
learning rate of the entries of A off its diagonal, as a fraction of that of the others: the error of imputations, in
units of x, and log p(x_o, m), IWAE-200 with 1,000 draws of the missing values; beside missing at random.
"""

import argparse
from pathlib import Path

import measure
import torch
from torch import Tensor

from pyro_dlgm import DLGM, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.likelihoods.missingness import all_values

N, P, SLOPE = 400, 3, 4.0


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.3, 0.1], help="of the learning rate")
    parser.add_argument("--tables", type=int, default=4, help="tables with seeds 0, 1, ...")
    parser.add_argument("--steps", type=int, default=400, help="steps on all rows")
    parser.add_argument("--lr", type=float, default=1e-1, help="learning rate at the start")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for cross_terms.json")
    return parser.parse_args()


def table(seed: int) -> tuple[Tensor, Tensor]:
    r"""Complete rows, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    t, noise = torch.randn(N, 1, generator=generator), torch.randn(N, P, generator=generator)
    x, mask = t * torch.tensor([1.0, 1.0, -1.0]) + 0.4 * noise, torch.ones(N, P, dtype=torch.bool)
    mask[:, 0] = torch.rand(N, generator=generator) < (-SLOPE * x[:, 0]).sigmoid()
    return x, mask


def fitted(seed: int, agnostic: bool, a: argparse.Namespace) -> dict[str, float]:
    r"""The error of imputations and log p(x_o, m) of one fit."""
    (x, mask), index = table(seed), torch.arange(N)
    torch.manual_seed(seed)
    p = likelihoods.FixedNormal(nets.Linear(1, P))
    p = likelihoods.Missingness(p, "agnostic") if agnostic else p
    model, guide = DLGM(priors.StandardNormal(1), p), guides.FullRank(N, 1)
    fit(model, guide, x, mask=mask, steps=a.steps, batch_size=N, lr=a.lr, seed=0)
    made = evaluate.impute(model, guide, x, index, 20, mask=mask, seed=0)
    if agnostic:
        p.mechanism.num_samples = 1000
    log_px = float(evaluate.iwae(model, guide, x, index, 200, mask=mask, seed=0).mean())
    return {"rmse": float((made - x)[~mask].square().mean().sqrt()), "log_px": log_px}


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    found = {"missing at random": [fitted(seed, False, a) for seed in range(a.tables)]}
    for fraction in a.fractions:
        all_values.CROSS = fraction
        found[f"{fraction:g}"] = [fitted(seed, True, a) for seed in range(a.tables)]
    for name, cells in found.items():
        print(f"{name:18}", *(f"{cell['rmse']:.2f} ({cell['log_px']:.3f})" for cell in cells))
    print(measure.save(a.out, "cross_terms", steps=a.steps, lr=a.lr, results=found))


if __name__ == "__main__":
    main()
