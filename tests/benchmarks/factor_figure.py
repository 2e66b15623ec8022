r"""The curves of the factor program, against epochs and seconds: held-out log-likelihood, and means of z."""

import argparse
from pathlib import Path

from factor_runs import Journal
from matplotlib.figure import Figure

NAMES = {
    ("AutoNormal", 1): "AutoNormal, full batch",
    ("AutoNormal", 64): "AutoNormal, dense Adam, N/B = 64",
    ("dense", 64): "AutoPerPoint, dense Adam, N/B = 64",
    ("lazy", 64): "AutoPerPoint, RowAdam, N/B = 64",
}
LABELS = {"lacks": "held-out log p(x | W) below the best,\nnats per point", "rmse": "RMSE of the means of z"}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Draws, of each way to fit the factor program, the training in the journal of lazy_dense.py that "
        "ended nearest to the best log-likelihood.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=100_000, help="the number N of training points")
    parser.add_argument("--journal", nargs="+", default=["runs/bench/factors.jsonl"], help="files of lazy_dense.py")
    parser.add_argument("--out", default="runs/bench", help="folder for factor_program.png")
    return parser.parse_args()


def chosen(journals: list[Journal], num_points: int, way: str, ratio: int) -> tuple[dict, list[dict]] | None:
    r"""The setting and the records of the training that ended nearest to the best; `None` without one."""
    found = []
    for journal in journals:
        found += [(k, v) for k, v in journal.items() if (k["N"], k["way"], k["ratio"]) == (num_points, way, ratio)]
    return min(found, key=lambda pair: pair[1][-1]["lacks"]) if found else None


def picture(curves: dict[str, tuple[dict, list[dict]]]) -> Figure:
    r"""Two rows of panels, for W and for z, over epochs and over seconds."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col", sharey="row")
    for row, (value, label) in zip(panels, LABELS.items(), strict=True):
        for axis, at in zip(row, ("epoch", "seconds"), strict=True):
            for name, (setting, records) in curves.items():
                text = f"{name}: rate of rows {setting['row_lr']:g}, of W {setting['lr']:g}"
                axis.loglog([r[at] for r in records], [r[value] for r in records], label=text)
            axis.grid(alpha=0.15)
        row[0].set_ylabel(label)
    panels[1, 0].set_xlabel("epochs")
    panels[1, 1].set_xlabel("seconds of one core, steps alone")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=9)
    return figure


def main() -> None:
    a = arguments()
    journals = [Journal(Path(path)) for path in a.journal]
    curves = {name: chosen(journals, a.points, *which) for which, name in NAMES.items()}
    curves = {name: curve for name, curve in curves.items() if curve is not None}
    for name, (setting, records) in curves.items():
        print(f"{name}: {setting}, {records[-1]}")
    path = Path(a.out, "factor_program.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(curves).savefig(path, dpi=110)
    print("written:", path)


if __name__ == "__main__":
    main()
