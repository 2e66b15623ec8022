r"""A step on a per-point guide costs the same from 1,000 to 10,000,000 points; Pyro's own path costs O(N)."""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import measure
import pyro
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_dlgm import DLGM, SVI, guides, likelihoods, nets, priors
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.optim.row_adam import RowAdam

STOCK = 1_000_000  # points of Pyro's own path
PIXELS = 64


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Times a training step of guides.MeanField under pyro_dlgm.SVI at several N, in turns in one "
        "process, batches included, and beside it Pyro's stock AutoNormal with SVI, Adam and Trace_ELBO at "
        f"N = {STOCK:,}. Wanted: ratio to the smallest N <= 1.3, stock/ours >= 100. Then, in a process for each N, the "
        "peak of memory beyond the table and the optimizer's rows. The decoder is linear, so that the rows matter. "
        "Needs about 4 GB of memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sizes", type=float, nargs="+", default=[1e3, 1e4, 1e5, 1e6, 1e7], help="numbers N of points")
    parser.add_argument("--rounds", type=int, default=30, help="rounds in which the sizes take turns")
    parser.add_argument("--steps", type=int, default=50, help="steps of each size in a round")
    parser.add_argument("--warmup", type=int, default=50, help="steps before the clock starts")
    parser.add_argument("--stock-steps", type=int, default=7, help="timed steps of Pyro's stock path; 0 leaves it out")
    parser.add_argument("--latents", type=int, default=10, help="the number D of latents")
    parser.add_argument("--batch", type=int, default=128, help="points in a batch")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, batches and starting values")
    parser.add_argument("--out", default="runs/bench", help="folder for rows.json")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def new_model(latents: int) -> DLGM:
    r"""A linear decoder: small, so that the time of a step is that of the rows and of the bookkeeping."""
    return DLGM(priors.StandardNormal(latents), likelihoods.FixedNormal(nets.Linear(latents, PIXELS)))


def batches(num_points: int, batch: int):
    r"""Batches in shuffled order, as `fit` makes them, of one image that all points share: it needs no memory."""
    data = Batches(torch.randn(1, PIXELS).expand(num_points, PIXELS), batch)
    return itertools.chain.from_iterable(itertools.repeat(data))


def ours(num_points: int, a: argparse.Namespace) -> tuple[measure.Step, SVI]:
    r"""A training step as `fit` takes it, and what takes it."""
    svi = SVI(new_model(a.latents), guides.MeanField(num_points, a.latents))
    data = batches(num_points, a.batch)

    def step():
        points = next(data)
        return svi.step(points.x, points.index, mask=None, size=num_points, factor=1 / num_points)

    return step, svi


def stock(num_points: int, a: argparse.Namespace) -> measure.Step:
    r"""A training step of Pyro's own SVI with its AutoNormal, told its plate (without, it trains the wrong rows)."""
    model = new_model(a.latents)

    def plates(x, index, size):
        return pyro.plate("data", size, subsample=index, dim=-1)

    guide = AutoNormal(model, create_plates=plates)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    data = batches(num_points, a.batch)

    def step():
        points = next(data)
        return svi.step(points.x, points.index, size=num_points)

    return step


def peak() -> int:
    r"""The largest memory of this process since `begun`, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def memory(num_points: int, a: argparse.Namespace) -> dict[str, float]:
    r"""MB at the peak of a training, from before the guide is made, and those of the table and the optimizer's rows."""
    ours(1000, a)[0]()  # what the libraries need
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak()
    step, svi = ours(num_points, a)
    step()
    rows = next(o for o in svi.optimizers if isinstance(o, RowAdam))
    tables = [svi.guide.rows.weight.detach(), *rows.state[svi.guide.rows.weight].values()]
    for table in tables[1:]:
        table.add_(0)  # zeros have no memory until something is written
    for _ in range(1000):
        step()
    size = sum(table.nbytes for table in tables)
    return {"tables_mb": size / 1e6, "beyond_mb": (peak() - before - size) / 1e6}


def memories(a: argparse.Namespace) -> dict[str, dict]:
    r"""`memory` of each N, in processes of their own."""
    found = {}
    for N in map(int, a.sizes):
        command = [sys.executable, __file__, f"--memory-of={N}", f"--latents={a.latents}", f"--batch={a.batch}"]
        found[f"{N:,}"] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"N = {N:,}: {found[f'{N:,}']['tables_mb']:.1f} MB of rows, {found[f'{N:,}']['beyond_mb']:.1f} MB beyond")
    return found


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    torch.manual_seed(a.seed)
    if a.memory_of:
        print(json.dumps(memory(a.memory_of, a)))
        return
    names = {f"MeanField, N = {int(N):,}": int(N) for N in a.sizes}
    contenders = {name: ours(N, a)[0] for name, N in names.items()}
    measured = measure.rounds(contenders, num_rounds=a.rounds, steps=a.steps, warmup=a.warmup)
    first, *others = names
    print(measure.table(measured, first))
    result = {
        "seconds_per_step": measured,
        "to_the_first": {n: measure.ratio(measured[n], measured[first]) for n in others},
    }
    del contenders
    if a.stock_steps:
        step = stock(STOCK, a)
        measure.seconds(step, 1)  # the first one makes the tables
        ours_now = statistics.median(measured[min(names, key=lambda n: abs(names[n] - STOCK))])
        slow = [measure.seconds(step, 1) for _ in range(a.stock_steps)]
        result |= {"stock_seconds_per_step": slow, "stock_to_ours": statistics.median(slow) / ours_now}
        print(f"stock AutoNormal, N = {STOCK:,}: {1e3 * statistics.median(slow):.0f} ms/step", end=", ")
        print(f"{result['stock_to_ours']:.0f} times ours")
        del step
    result["memory"] = memories(a) if Path("/proc/self/clear_refs").exists() else None
    print("written:", measure.save(a.out, "rows", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
