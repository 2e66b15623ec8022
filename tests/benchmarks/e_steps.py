r"""E-steps for new points by `evaluate.infer`, which starts near the posteriors, and by its climb from fresh rows."""

import argparse
import sys
import time
import warnings
from functools import partial

import judge
import measure
import torch
from torch import Tensor

from pyro_dlgm import evaluate, guides
from pyro_dlgm.evaluate.e_step.climb import from_fresh_rows
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.points import Points

SAMPLES = 1000  # of each F
WORSE = 0.02  # nats by which F may be smaller


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Fits mean-field and full-rank rows to test points of models that were trained on digits, from "
        "fresh rows and from Gaussians near the posteriors, and prints gradient evaluations, seconds and the paired "
        f"difference of F. Wanted: F smaller by at most {WORSE} nats and two errors, at no more gradients.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=100, help="test points")
    parser.add_argument("--out", default="runs/bench", help="folder for e_steps.json")
    return judge.with_models(parser).parse_args()


def measured(fit, model, points: Points, seed: int) -> dict:
    r"""F of each point, gradient evaluations of a point, and seconds."""
    begin = time.perf_counter()
    q = fit()
    seconds = time.perf_counter() - begin
    f = evaluate.elbo(model, q, points, num_samples=SAMPLES, seed=seed + 1)
    return {"f": f, "gradients": q.convergence.gradients_per_point, "seconds": seconds}


def row(name: str, model, x: Tensor, family: type, seed: int) -> dict:
    r"""Both ways on one model, and their difference."""
    points, guide = Points(x).numbered(), family(1, model.prior.latent_dim).to(next(model.parameters()))
    ways = {
        "fresh": partial(from_fresh_rows, model, guide, points, seed=seed),
        "near": partial(evaluate.infer, model, guide, points, seed=seed),
    }
    found = {way: measured(fit, model, points, seed) for way, fit in ways.items()}
    gained = Mean.of(found["near"].pop("f") - found["fresh"].pop("f"))
    said = " to ".join(f"{r['gradients']:5.0f} gradients in {r['seconds']:5.1f} s" for r in found.values())
    print(f"{name:16} {family.__name__:10} {said}, F {gained.mean:+.4f} ± {gained.standard_error:.4f}", flush=True)
    return {"model": name, "family": family.__name__, "gained": gained._asdict()} | found


def main() -> int:
    r"""Measures, prints, writes; the exit status is the number of claims that do not hold."""
    a = arguments()
    measure.use_threads(a.threads)
    torch.manual_seed(a.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = {name: (model.eval(), x) for name, (model, x) in judge.models(a).items()}
        families = guides.MeanField, guides.FullRank
        rows = [row(name, *pair, family, a.seed) for name, pair in made.items() for family in families]
    worse = [r for r in rows if r["gained"]["mean"] + 2 * r["gained"]["standard_error"] < -WORSE]
    dear = [r for r in rows if r["near"]["gradients"] > r["fresh"]["gradients"]]
    for what, bad in (("F is smaller", worse), ("more gradients", dear)):
        print(f"{what}: {', '.join(r['model'] + ' ' + r['family'] for r in bad) or 'nowhere'}")
    print(f"Written: {measure.save(a.out, 'e_steps', arguments=vars(a), rows=rows)}")
    return len(worse) + len(dear)


if __name__ == "__main__":
    sys.exit(main())
