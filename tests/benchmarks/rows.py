r"""A step on a per-point guide costs the same at 1,000 and at 1,000,000 points; Pyro's own path costs O(N)."""

import argparse
import itertools
import statistics

import measure
import pyro
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_dlgm import DLGM, SVI, guides, likelihoods, nets, priors

SMALL, LARGE = 1_000, 1_000_000
PIXELS = 64


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description=f"Times a training step of guides.MeanField under pyro_dlgm.SVI at N = {SMALL:,} and N = {LARGE:,} "
        f"points, in turns in one process, and beside it Pyro's stock AutoNormal with SVI, Adam and Trace_ELBO at "
        f"N = {LARGE:,}. Wanted: ratio large/small <= 1.3, stock/ours >= 100. The decoder is linear, so that the rows "
        "matter. Needs about 4 GB of memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds in which the two sizes take turns")
    parser.add_argument("--steps", type=int, default=50, help="steps of each size in a round")
    parser.add_argument("--warmup", type=int, default=50, help="steps before the clock starts")
    parser.add_argument("--stock-steps", type=int, default=7, help="timed steps of Pyro's stock path; 0 leaves it out")
    parser.add_argument("--latents", type=int, default=32, help="the number D of latents")
    parser.add_argument("--batch", type=int, default=128, help="points in a batch")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, batches and starting values")
    parser.add_argument("--out", default="runs/bench", help="folder for rows.json")
    return parser.parse_args()


def batches(num_points: int, batch: int, count: int) -> itertools.cycle:
    r"""``count`` batches (x, index), indexed beforehand, with the rows in shuffled order as in training."""
    passes = -(-batch * count // (num_points // batch * batch))
    order = [torch.randperm(num_points)[: num_points // batch * batch] for _ in range(passes)]
    index = torch.cat(order).split(batch)[:count]
    return itertools.cycle([(torch.randn(len(i), PIXELS), i) for i in index])


def new_model(latents: int) -> DLGM:
    r"""A linear decoder: small, so that the time of a step is that of the rows and of the bookkeeping."""
    return DLGM(priors.StandardNormal(latents), likelihoods.FixedNormal(nets.Linear(latents, PIXELS)))


def ours(num_points: int, a: argparse.Namespace) -> measure.Step:
    r"""A training step as `fit` takes it."""
    svi = SVI(new_model(a.latents), guides.MeanField(num_points, a.latents))
    data = batches(num_points, a.batch, a.warmup + a.rounds * a.steps)

    def step():
        x, index = next(data)
        return svi.step(x, index, mask=None, size=num_points, factor=1 / num_points)

    return step


def stock(num_points: int, a: argparse.Namespace) -> measure.Step:
    r"""A training step of Pyro's own SVI with its AutoNormal, told its plate (without, it trains the wrong rows)."""
    model = new_model(a.latents)

    def plates(x, index, size):
        return pyro.plate("data", size, subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    data = batches(num_points, a.batch, 1 + a.stock_steps)

    def step():
        x, index = next(data)
        return svi.step(x, index, size=num_points)

    return step


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    torch.manual_seed(a.seed)
    small, large = f"MeanField, N = {SMALL:,}", f"MeanField, N = {LARGE:,}"
    contenders = {small: ours(SMALL, a), large: ours(LARGE, a)}
    measured = measure.rounds(contenders, num_rounds=a.rounds, steps=a.steps, warmup=a.warmup)
    print(measure.table(measured, small))
    result = {"seconds_per_step": measured, "large_to_small": measure.ratio(measured[large], measured[small])}
    if a.stock_steps:
        step = stock(LARGE, a)
        measure.seconds(step, 1)  # the first one makes the tables
        slow = [measure.seconds(step, 1) for _ in range(a.stock_steps)]
        result |= {"stock_seconds_per_step": slow}
        result["stock_to_ours"] = statistics.median(slow) / statistics.median(measured[large])
        print(f"stock AutoNormal, N = {LARGE:,}: {1e3 * statistics.median(slow):.0f} ms/step", end=", ")
        print(f"{result['stock_to_ours']:.0f} times ours")
    print("written:", measure.save(a.out, "rows", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
