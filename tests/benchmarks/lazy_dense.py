r"""From which N/B on lazy rows matter: epochs and seconds until W is near its best, rows lazy or dense, by N/B."""

import argparse
from pathlib import Path

import measure
from factor_runs import Journal, Setting, Task

RATIOS = (1, 4, 16, 64, 256)
EPOCHS = (10, 20, 40, 80)
ROW_RATES = {"lazy": (0.1, 0.2, 0.4), "dense": (0.05, 0.1, 0.2), "AutoNormal": (0.05, 0.1, 0.2)}
CLOSE = (0.1, 0.01)  # nats per point below the best held-out log-likelihood


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Fits a program with latent loadings and exact answers, with lazy and with dense rows, at several "
        "N/B. The shortest training is made at each learning rate of a grid, each longer one at the best rate of the "
        "one before and at half of it. A training that is in the journal is not done again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=100_000, help="the number N of training points")
    parser.add_argument("--ways", nargs="+", choices=list(ROW_RATES), default=["lazy", "dense"], help="which rows")
    parser.add_argument("--ratios", type=int, nargs="+", default=RATIOS, help="values of N/B")
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, help="lengths of training, from short to long")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--journal", default="runs/bench/factors.jsonl", help="file of finished trainings")
    parser.add_argument("--out", default="runs/bench", help="folder for lazy_dense.json")
    return parser.parse_args()


def rate_of_loadings(ratio: int) -> float:
    r"""The learning rate of W: as good as any of 0.01, 0.03, 0.1 in trials with N = 20,000."""
    return 0.1 if ratio <= 4 else 0.03


def ladder(journal: Journal, task: Task, way: str, ratio: int, epochs: tuple[int, ...]) -> list[dict]:
    r"""The trainings of one way at one N/B, from short to long, until one is close: each with its end."""
    rates, found = list(ROW_RATES[way]), []
    for length in epochs:
        settings = [Setting(way, ratio, length, rate_of_loadings(ratio), rate) for rate in rates]
        ends = [vars(s) | journal.trained(task, s)[-1] for s in settings]
        ends.sort(key=lambda end: end["lacks"])
        found += ends
        print(line(ends[0]), flush=True)
        if ends[0]["lacks"] < min(CLOSE):
            break
        rates = [ends[0]["row_lr"], ends[0]["row_lr"] / 2]
    return found


def line(end: dict) -> str:
    r"""The end of a training in words."""
    return (
        f"{end['way']:10} N/B {end['ratio']:4} {end['epochs']:4} epochs, row_lr {end['row_lr']:.2f}: "
        f"{end['lacks']:.4f} nats below the best, RMSE {end['rmse']:.3f}, {end['seconds']:.1f} s"
    )


def first_close(ends: list[dict], close: float) -> dict | None:
    r"""The shortest training that came that close, the best of its length; `None` without one."""
    good = [end for end in ends if end["lacks"] < close]
    return min(good, key=lambda end: (end["epochs"], end["lacks"])) if good else None


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    task, journal = Task.of(a.points), Journal(Path(a.journal))
    print(f"best held-out log p(x | W): {task.best:.4f} nats per point")
    rows = {(way, ratio): ladder(journal, task, way, ratio, a.epochs) for ratio in a.ratios for way in a.ways}
    result = []
    for (way, ratio), ends in rows.items():
        for close in CLOSE:
            result.append({"way": way, "ratio": ratio, "close": close, "first": first_close(ends, close)})
            print(
                f"within {close}: {line(result[-1]['first']) if result[-1]['first'] else f'{way} N/B {ratio}: never'}"
            )
    print("written:", measure.save(a.out, "lazy_dense", protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
