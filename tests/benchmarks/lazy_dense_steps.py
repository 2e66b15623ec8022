r"""The time of a step with lazy and with dense rows, over N: where the price of touching all rows shows."""

import argparse
import itertools
import warnings

import measure
import torch
from factor_program import simulated
from factor_ways import WAYS


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Times a step on the factor program with AutoPerPoint, its rows lazy (RowAdam) or dense (a fused "
        "Adam), and with Pyro's AutoNormal, in turns, for several numbers N of points and batches of one size.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="values of N")
    parser.add_argument("--batch", type=int, default=390, help="points in a batch")
    parser.add_argument("--rounds", type=int, default=10, help="rounds in which the ways take turns")
    parser.add_argument("--steps", type=int, default=5, help="steps of each way in a round")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", default="runs/bench", help="folder for lazy_dense_steps.json")
    return parser.parse_args()


def stepper(way, x: torch.Tensor, batch: int) -> measure.Step:
    r"""A step on the next of some batches in shuffled order."""
    batches = itertools.cycle(torch.randperm(len(x)).split(batch)[:20])

    def step():
        index = next(batches)
        return way.step(x[index], index)

    return step


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    warnings.simplefilter("ignore")  # dense rows are meant here
    result = {}
    for N in a.points:
        x = simulated(N)[0]
        contenders = {name: stepper(make(x, 0.03, 0.1, 0), x, a.batch) for name, make in WAYS.items()}
        measured = measure.rounds(contenders, num_rounds=a.rounds, steps=a.steps, warmup=3)
        print(f"N = {N:,}\n{measure.table(measured, 'lazy')}\n", flush=True)
        ratios = {name: measure.ratio(values, measured["lazy"]) for name, values in measured.items()}
        result[N] = {"seconds_per_step": measured, "ratio_to_lazy": ratios}
    print("written:", measure.save(a.out, "lazy_dense_steps", protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
