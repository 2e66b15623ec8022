r"""A missing value has a distribution: narrow where sensors that go with it were working, wide where they were not.

    python examples/scientific_table.py --file air_quality.csv

Hourly air quality in an Italian town (UCI, De Vito et al. 2008): 12 columns, of which analysers and sensors fail for
hours and days. Each hour is a point; concentrations are taken as logarithms, columns are standardized. A nonlinear
decoder with σ(t) and an encoder that gets the mask are trained on what is there. A tenth of the observed values is
hidden from the training, to see whether intervals of draws contain the truth as often as they should; the error of
their mean is compared with that of PPCA, of the mean of a column, and of a straight line in time between neighbours,
which the model, for which hours have no order, cannot draw.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pyro_dlgm import DLGM, PPCA, evaluate, fit, guides, likelihoods, nets, priors

NAMES = ("CO", "S1 CO", "C6H6", "S2 NMHC", "NOx", "S3 NOx", "NO2", "S4 NO2", "S5 O3", "T", "RH", "AH")
COLUMNS = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)  # of the file; NMHC, 90% missing, is left out
LOGGED = ("CO", "C6H6", "NOx", "NO2")
LATENTS, HIDDEN, LR, BATCH = 6, (64,), 3e-3, 200
HELD_OUT, E_STEPS, DRAWS, WINDOW = 0.1, 2000, 400, 168
TARGET = NAMES.index("CO")
# What is observed of an hour, besides the hidden CO: all, the weather alone, nothing.
SITUATIONS = {"all other columns": NAMES, "the weather alone": ("T", "RH", "AH"), "nothing": ()}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains on hours of air quality with missing values, checks draws of hidden ones, and draws the "
        "distribution of missing ones. Writes scientific_table.json and scientific_table.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--file", required=True, help="air_quality.csv: a column of times, then 13 of numbers")
    parser.add_argument("--epochs", type=int, default=100, help="passes through the training points")
    parser.add_argument("--checked", type=int, default=2000, help="hours whose hidden values are checked, at random")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is hidden, of the training and of draws")
    parser.add_argument("--out", default="runs/scientific_table", help="folder for the results")
    return parser.parse_args()


def table(file: str) -> Tensor:
    r"""The columns, logarithms of concentrations, standardized by what is observed; NaN where missing, (N, 12)."""
    v = torch.tensor(np.genfromtxt(file, delimiter=",", skip_header=1, usecols=COLUMNS), dtype=torch.float32)
    v = torch.where(torch.tensor([name in LOGGED for name in NAMES]), v.log(), v)
    centred = v - v.nanmean(0)
    return centred / centred.square().nanmean(0).sqrt()


def trained(x: Tensor, mask: Tensor, a: argparse.Namespace):
    r"""The pair, trained on what the mask shows."""
    torch.manual_seed(a.seed)
    decoder = nets.MLP(LATENTS, len(NAMES), HIDDEN, heads=2)
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.DiagonalNormal(decoder, floor=0.02))
    encoder = nets.MLP(2 * len(NAMES), HIDDEN[0], HIDDEN)
    guide = guides.Amortized(encoder, LATENTS, "full_rank", mask_input=True)
    fit(model, guide, x, mask=mask, epochs=a.epochs, batch_size=min(BATCH, len(x)), lr=LR, seed=a.seed)
    return model, guide


def interpolated(x: Tensor, mask: Tensor) -> Tensor:
    r"""Each column as straight lines in time between the values that the mask shows."""
    hours = np.arange(len(x))
    columns = [np.interp(hours, hours[m], v[m]) for v, m in zip(x.T.numpy(), mask.T.numpy(), strict=True)]
    return torch.tensor(np.stack(columns, 1), dtype=x.dtype)


def rows_for(pair: tuple, x: Tensor, mask: Tensor, a: argparse.Namespace) -> tuple:
    r"""The pair with rows of q for these points, which start at the encoder's: proposals near the posterior."""
    return pair[0], evaluate.infer(*pair, x, mask=mask, max_steps=E_STEPS, seed=a.seed)


def checked(pair: tuple, x: Tensor, mask: Tensor, hidden: Tensor, a: argparse.Namespace) -> dict:
    r"""Coverage of intervals and errors of the hidden values of some hours, beside those of others."""
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(a.seed))[: a.checked]
    rows = rows[hidden[rows].any(1)]
    some = {"mask": mask[rows], "held_out": hidden[rows], "seed": a.seed}
    index, pair = torch.arange(len(rows)), rows_for(pair, x[rows], mask[rows], a)
    found = evaluate.check_imputations(*pair, x[rows], index, **some)
    ppca = PPCA.fit(x.masked_fill(~mask, torch.nan).double(), LATENTS)
    linear = evaluate.check_imputations(ppca, guides.Exact(ppca), x[rows].double(), None, **some)
    lines, truth = interpolated(x, mask)[rows][hidden[rows]], x[rows][hidden[rows]]
    simple = {"lines in time": lines - truth, "mean of the column": -truth}
    results = {"DLGM": summary(found), "PPCA": summary(linear)}
    return results | {name: {"rmse": float(off.square().mean().sqrt())} for name, off in simple.items()}


def summary(found: evaluate.Imputations) -> dict:
    r"""Error, score, coverage and verdicts as plain values."""
    covered = {f"{level:.0%}": list(pair) for level, pair in found.coverage.items()}
    return {"rmse": found.rmse, "crps": found.crps, "coverage": covered, "verdicts": found.verdicts}


def window(mask: Tensor) -> slice:
    r"""The week in which most values of CO are missing of those weeks in which a half of them is there."""
    there = mask[:, TARGET].float().unfold(0, WINDOW, 24).mean(1)
    first = int(torch.where(there >= 0.5, there, 2.0).argmin()) * 24
    return slice(first, first + WINDOW)


def quantiles(draws: Tensor) -> Tensor:
    r"""Those of 5%, 25%, 75% and 95% of the draws, (4, ...)."""
    return draws.quantile(torch.tensor([0.05, 0.25, 0.75, 0.95]), 0)


def week(axis, pair: tuple, x: Tensor, mask: Tensor, hidden: Tensor, a: argparse.Namespace) -> None:
    r"""A week of CO: what is observed, intervals of what is missing, and what was hidden."""
    part, hours = window(mask | hidden), torch.arange(WINDOW)
    pair = rows_for(pair, x[part], mask[part], a)
    made = evaluate.impute(*pair, x[part], hours, DRAWS, by="draws", mask=mask[part], seed=a.seed)[..., TARGET]
    gone = ~mask[part, TARGET]
    low, lower, upper, high = quantiles(made)
    axis.plot(hours[~gone], x[part, TARGET][~gone], "k.", ms=4, label="observed")
    axis.vlines(hours[gone], low[gone], high[gone], color="C0", alpha=0.4, label="missing: 90% interval")
    axis.vlines(hours[gone], lower[gone], upper[gone], color="C0", lw=3, label="50%")
    known = hidden[part, TARGET]
    axis.plot(hours[known], x[part, TARGET][known], "C3x", label="hidden from the training")
    axis.set(xlabel="hour of the week", ylabel="log CO, standard deviations")
    axis.legend(fontsize=8, ncols=2)


def situations(axis, pair: tuple, x: Tensor, whole: int, a: argparse.Namespace) -> dict[str, float]:
    r"""The distribution of CO of one hour in three situations; returns the widths of its 90% intervals."""
    widths = {}
    for k, (said, names) in enumerate(SITUATIONS.items()):
        mask = torch.tensor([[name in names for name in NAMES]])
        mask[:, TARGET] = False
        one = x[whole : whole + 1]
        rows = rows_for(pair, one, mask, a)
        draws = evaluate.impute(*rows, one, torch.zeros(1).long(), 10 * DRAWS, by="draws", mask=mask, seed=a.seed)
        values = draws[:, 0, TARGET]
        low, _, _, high = quantiles(values).tolist()
        widths[said] = high - low
        axis.hist(values.tolist(), 60, range=(-4, 4), density=True, histtype="step", color=f"C{k}", label=said)
    axis.axvline(float(x[whole, TARGET]), color="k", ls=":", label="truth")
    axis.set(xlabel="log CO of one hour, standard deviations", ylabel="density")
    axis.legend(fontsize=8, title="observed besides it")
    return widths


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    x = table(a.file)
    observed = ~x.isnan()
    hidden = observed & (torch.rand(x.shape, generator=torch.Generator().manual_seed(a.seed)) < HELD_OUT)
    mask = observed & ~hidden
    pair = trained(x, mask, a)
    results = checked(pair, x, mask, hidden, a)
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    week(left, pair, x, mask, hidden, a)
    complete = observed.all(1) & hidden[:, TARGET]
    results["widths"] = situations(right, pair, x, int(complete.nonzero()[0]), a)
    missing = 1 - float(observed.double().mean())
    protocol = f"{len(x)} hours, {missing:.1%} missing, {HELD_OUT:.0%} of the others hidden, seed {a.seed}"
    print(protocol)
    for name, found in results.items():
        print(f"{name}: {found}")
    (out / "scientific_table.json").write_text(json.dumps({"protocol": protocol, "results": results}, indent=2) + "\n")
    figure.savefig(out / "scientific_table.png", dpi=110)


if __name__ == "__main__":
    main()
