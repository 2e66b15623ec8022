r"""`evaluate.infer` on held-out cells of a negative-binomial factor program: seconds, and what q* lacks of log p(x)."""

import argparse
import time

import measure
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dlgm import evaluate, fit, guides
from pyro_dlgm.seeding import forked

FACTORS, GENES = 5, 50


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Fits a negative-binomial factor program with AutoPerPoint to simulated cells, holds its globals "
        "at the centre of their q, infers the latents of new cells, and compares F(q*) of some of them with log p(x) "
        "by AIS or IWAE, certified by BDMC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--train", type=int, default=2_000, help="cells to fit the globals on")
    parser.add_argument("--epochs", type=int, default=60, help="passes through them")
    parser.add_argument("--cells", type=int, default=10_000, help="held-out cells")
    parser.add_argument("--certified", type=int, default=64, help="cells of which log p(x) is estimated")
    parser.add_argument("--chains", type=int, default=4, help="chains of a cell")
    parser.add_argument("--temperatures", type=int, default=100, help="the number T of temperatures")
    parser.add_argument("--samples", type=int, default=1_000, help="samples of the IWAE and of F")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/bench", help="folder for infer_counts.json")
    return parser.parse_args()


def program(x=None, index=None, *, size=None):
    r"""log E[x] = z W + b, with z a vector of each cell, and loadings, means and dispersions of genes."""
    W = pyro.sample("W", dist.Normal(0.0, 0.5).expand([FACTORS, GENES]).to_event(2))
    b = pyro.sample("b", dist.Normal(0.0, 1.0).expand([GENES]).to_event(1))
    r = pyro.sample("r", dist.Gamma(4.0, 1.0).expand([GENES]).to_event(1))
    with pyro.plate("data", size or len(x), subsample=index if size and x is not None else None):
        z = pyro.sample("z", dist.Normal(torch.zeros(FACTORS), 1.0).to_event(1))
        return pyro.sample("x", dist.NegativeBinomial(r, logits=z @ W + b - r.log()).to_event(1), obs=x)


def simulated(a: argparse.Namespace) -> tuple[Tensor, Tensor]:
    r"""Training cells and held-out cells, of one draw of the globals."""
    with forked(a.seed), torch.no_grad():
        x = program(size=a.train + a.cells)
    return x[: a.train], x[a.train :]


def trained(x: Tensor, a: argparse.Namespace) -> guides.AutoPerPoint:
    r"""The guide with q of the globals, fitted to the training cells."""
    guide = guides.AutoPerPoint(program, len(x))
    fit(program, guide, x, epochs=a.epochs, batch_size=100, lr=2e-2, row_lr=0.1, seed=a.seed)
    return guide


def inferred(guide, x: Tensor, a: argparse.Namespace) -> tuple[object, dict]:
    r"""The guide with rows for new cells, and what that took."""
    wall, processor = time.perf_counter(), time.process_time()
    found = evaluate.infer(program, guide, x, seed=a.seed)
    took = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    ends = found.convergence
    took |= {"converged": int(ends.converged.sum()), "gradients_per_cell": ends.gradients_per_point}
    return found, took


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    train, new = simulated(a)
    guide = trained(train, a)
    fitted, took = inferred(guide, new, a)
    F = evaluate.elbo(program, fitted, new, torch.arange(len(new)), num_samples=20, seed=a.seed)
    print(f"infer of {len(new):,} cells: {took}, F(q) {F.mean():.3f} nats per cell")
    settings = {"num_samples": a.samples, "num_chains": a.chains, "num_temperatures": a.temperatures}
    few = new[: a.certified]
    begun = time.process_time()
    gaps = evaluate.gaps(program, fitted, few, torch.arange(len(few)), families=("full_rank",), **settings, seed=a.seed)
    result = took | {"bound_of_all": float(F.mean()), "gaps": gaps.summary()}
    result["gaps_processor_seconds"] = time.process_time() - begun
    for name, part in (("log p(x)", gaps.log_px), ("log p(x) − F(q)", gaps.total), ("of q*", gaps.approximation)):
        s = part.summary()
        print(f"{name}: {s['mean']:.3f} ± {s['standard_error']:.3f}, Monte Carlo error {s['monte_carlo_error']}")
    print(f"full-rank q*: {gaps.summary()['gap_of']['full_rank']}")
    print(f"BDMC: {gaps.summary()['bdmc']}; {gaps.conditions}; {gaps.notes}")
    print("written:", measure.save(a.out, "infer_counts", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
