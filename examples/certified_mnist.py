r"""log p(x) of all test images of MNIST, certified to 0.1 nats, block by block; what was done before is not done again.

    pyro-dlgm fit --data mnist --data-root DIR --likelihood bernoulli --latents 64 --epochs 10 --out runs/mnist
    python examples/certified_mnist.py --run runs/mnist --data-root DIR

One pilot finds how many temperatures it takes, and one certificate says what the estimates are worth here, both on
points that the model makes. Then each block of test images is annealed from Gaussians near their posteriors. Killed
and started again, it goes on after the last whole block.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from pyro_dlgm import data, evaluate, load
from pyro_dlgm.comparison.workers import pool

SUMS = ("log_px", "stderr", "uncertain")


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Estimates log p(x) of MNIST's test images under the model of a run, in nats, with the bound that "
        "bidirectional Monte Carlo sets on the error. Writes a file for each block, and certified.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--run", required=True, help="folder of a run of pyro-dlgm fit --data mnist")
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw, unpacked")
    parser.add_argument("--test-images", type=int, default=10_000, help="how many test images, the first ones")
    parser.add_argument("--block", type=int, default=250, help="images in a block")
    parser.add_argument("--tol", type=float, default=0.1, help="nats by which the mean may be off")
    parser.add_argument("--simulated", type=int, default=64, help="points of pilot and certificate")
    parser.add_argument("--jobs", type=int, default=1, help="blocks at a time, in processes that share the cores")
    parser.add_argument("--threads", type=int, help="threads of torch, without --jobs; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    parser.add_argument("--out", default="runs/certified_mnist", help="folder for the results")
    return parser.parse_args()


def certified(model, x: Tensor, out: Path, *, block: int, tol: float, simulated: int, seed: int, jobs: int = 1) -> dict:
    r"""The mean of log p(x) with its certificate; blocks that lie in ``out`` are read."""
    protocol = {"images": len(x), "block": block, "tol": tol, "simulated": simulated, "seed": seed}
    protocol["sum_of_x"] = float(x.double().sum())
    protocol["sum_of_w"] = float(sum(p.detach().double().sum() for p in model.parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not certified is in the summary
        first = kept(out / "first.pt", protocol, lambda: whole(model, x[:block], tol, simulated, seed))
        tasks = []
        for i in range(0, len(x), block):
            make = partial(plain, model, x[i : i + block].clone(), first["num_temperatures"], seed + 1 + i)
            tasks.append(partial(kept, out / f"block_{i:06d}.pt", protocol, make))
        ends = (task() for task in tasks) if jobs == 1 else at_once(tasks, jobs)
        parts = list(track(ends, total=len(tasks), description=f"log p(x) of {len(x):,} images"))
    log_px, errors, uncertain = (torch.cat([part[name] for part in parts]) for name in SUMS)
    found = {"log_px": float(log_px.mean()), "standard_error": float(log_px.std() / len(log_px) ** 0.5)}
    found["monte_carlo_error"] = float(errors.square().sum().sqrt()) / len(errors)
    spent = sum(part["gradients"] for part in (first, *parts)) / len(x)
    found |= {"uncertain": int(uncertain.sum()), "gradients_per_point": spent} | protocol
    found["seconds"] = sum(part["seconds"] for part in (first, *parts))
    return found | {name: first[name] for name in ("num_temperatures", "bdmc", "notes")}


def at_once(tasks: list, jobs: int) -> Iterator[dict]:
    r"""Yields what tasks return, as they end; each is done in one of the processes."""
    for _, end in pool.run(tasks, jobs, pool.share(jobs)):
        if end.failure:
            raise SystemExit(end.failure)
        yield end.value


def whole(model, x: Tensor, tol: float, simulated: int, seed: int) -> dict:
    r"""How many temperatures it takes, and the certificate."""
    found = evaluate.evidence(model, None, x, num_simulated=simulated, tol=tol, seed=seed)
    said = found.summary()
    notes = [note for note in said["notes"] if note != found.apart]
    spent = {"gradients": len(x) * found.gradients_per_point}
    return {"num_temperatures": found.num_temperatures, "bdmc": said["bdmc"], "notes": notes} | spent


def plain(model, x: Tensor, num_temperatures: int, seed: int) -> dict:
    r"""log p(x) of a block."""
    settings = {"num_temperatures": num_temperatures, "num_simulated": 0, "seed": seed}
    found = evaluate.evidence(model, None, x, num_samples=2, **settings)
    tensors = {"log_px": found.annealed.value, "stderr": found.annealed.stderr, "uncertain": found.uncertain}
    return tensors | {"gradients": len(x) * found.gradients_per_point}


def kept(path: Path, protocol: dict, make) -> dict:
    r"""What lies in a file, or is made and put there, whole or not at all."""
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved.pop("protocol") != protocol:
            raise SystemExit(f"{path} is of another model, other images or settings; expected --out of a new folder")
        return saved
    start = time.perf_counter()
    made = make()
    made["seconds"] = time.perf_counter() - start
    torch.save(made | {"protocol": protocol}, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)
    return made


def main() -> None:
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    model = load(a.run)[0].eval()
    x = data.mnist(a.data_root).test[: a.test_images]
    settings = {"block": a.block, "tol": a.tol, "simulated": a.simulated, "seed": a.seed, "jobs": a.jobs}
    found = certified(model, x, out, **settings) | {"run": a.run, "jobs": a.jobs, "threads": torch.get_num_threads()}
    (out / "certified.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
