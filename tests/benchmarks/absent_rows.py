r"""What an optimizer does to rows that are not in the batch: how far they move in the steps after their visit."""

import argparse

import measure
import torch
from factor_program import FACTORS, NOISE, posterior_means
from factor_runs import Task
from factor_ways import WAYS, Way
from torch import Tensor

AFTER = (1, 2, 5, 10, 20, 50)  # steps after the visit


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains the factor program for some epochs, then follows the rows of one batch through the steps "
        "in which they are absent: how far their means of z have moved since the visit, in lengths of the step of the "
        "visit itself, and how far they are from the exact ones, before and after.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=100_000, help="the number N of training points")
    parser.add_argument("--ratio", type=int, default=64, help="N/B, at least 51")
    parser.add_argument("--epochs", type=int, default=5, help="passes before")
    parser.add_argument("--lr", type=float, default=0.03, help="learning rate of W")
    parser.add_argument("--row-lr", type=float, default=0.1, help="learning rate of the rows")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/bench", help="folder for absent_rows.json")
    return parser.parse_args()


def error(way: Way, x: Tensor, rows: Tensor) -> float:
    r"""The RMSE of the means of z of these rows, given W as it is."""
    return float((way.z()[rows] - posterior_means(way.W(), x[rows])).square().mean().sqrt())


def length(change: Tensor) -> float:
    r"""The root of the mean square of a change of rows, number by number."""
    return float(change.square().mean().sqrt())


def followed(task: Task, name: str, a: argparse.Namespace) -> dict:
    r"""What happens to the rows of the first batch of an epoch while the other batches are visited."""
    torch.manual_seed(a.seed)
    way, N = WAYS[name](task.x, a.lr, a.row_lr, a.seed), len(task.x)
    for _ in range(a.epochs):
        for index in torch.randperm(N).split(N // a.ratio):
            way.step(task.x[index], index)
    rows, *others = torch.randperm(N).split(N // a.ratio)
    before = way.z()[rows].clone()
    way.step(task.x[rows], rows)
    visited, moved, errors = way.z()[rows].clone(), {}, {0: error(way, task.x, rows)}
    for k, index in enumerate(others[: max(AFTER)], 1):
        way.step(task.x[index], index)
        if k in AFTER:
            moved[k], errors[k] = length(way.z()[rows] - visited), error(way, task.x, rows)
    M = way.W() @ way.W().mT / NOISE**2 + torch.eye(FACTORS)
    scale = float(torch.linalg.inv(M).diagonal().mean().sqrt())
    return {"visit": length(visited - before), "after": moved, "errors": errors, "posterior_scale": scale}


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    task = Task.of(a.points)
    result = {name: followed(task, name, a) for name in WAYS}
    for name, r in result.items():
        print(f"{name}: the step of the visit {r['visit']:.4f} (scale of the posterior {r['posterior_scale']:.3f})")
        print("  moved since, in such steps:", {k: round(v / r["visit"], 2) for k, v in r["after"].items()})
        print("  RMSE to the exact means:", {k: round(v, 4) for k, v in r["errors"].items()})
    print("written:", measure.save(a.out, "absent_rows", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
