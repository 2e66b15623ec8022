r"""Values that hide themselves, on six UCI tables: errors of imputations with and without a model of what hides them.

The protocol is that of not-MIWAE (Ipsen, Mattei, Frellsen 2021, Table 1): columns are standardized, the class or target
is left out; in the first half of them, rounded down, a value above the column's mean is missing. D = P − 1 latents. The
error is the root mean square of imputed minus true values over what is missing, in standard deviations. Seeds permute
nothing: the tables are given, and a seed is that of starting values and draws.

The mechanism of a multilayer perceptron starts at the one that the linear decoder has learned: from 0 it may go in the
wrong direction, or stay too flat, at which such a decoder fits the data as well (``--from-zero`` shows it).

Each cell (table, row, seed) is kept in a file as soon as it is there, and a run goes on where the last one stopped;
fits with other settings are done again.
"""

import argparse
import json
import math
import statistics
import warnings
from pathlib import Path

import measure
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from torch import Tensor, nn

from pyro_dlgm import DLGM, PPCA, evaluate, fit, guides, likelihoods, nets, priors

TABLES = ("banknote", "concrete", "wine_red", "wine_white", "yeast", "breast")
HIDDEN = (128, 128)
RATES = {"linear": 0.1, "mlp": 0.01}  # learning rates of networks and mechanisms at the start, chosen by F
MECHANISMS = ("mar", "agnostic", "self_masking", "known")
FITTED = [f"{decoder}, {mechanism}" for decoder in ("linear", "mlp") for mechanism in MECHANISMS]
IMPUTERS = {
    "mean": lambda seed: SimpleImputer(),
    "IterativeImputer": lambda seed: IterativeImputer(max_iter=30, random_state=seed),
    "KNNImputer": lambda seed: KNNImputer(),
    "IterativeImputer, ExtraTrees": lambda seed: IterativeImputer(
        ExtraTreesRegressor(100, max_features="sqrt", random_state=seed), max_iter=10, random_state=seed
    ),
}
ROWS = (*IMPUTERS, "PPCA, exact", *FITTED)
FIXED = ("mean", "IterativeImputer", "KNNImputer", "PPCA, exact")  # the same at all seeds
# Table 1 of the paper, in the order of TABLES, and whose row of ours it is to be read with.
PUBLISHED = {
    "mean": ("mean", (1.73, 1.85, 1.83, 1.74, 1.69, 1.82)),
    "MICE": ("IterativeImputer", (1.41, 1.70, 1.68, 1.41, 1.72, 1.17)),
    "missForest": ("IterativeImputer, ExtraTrees", (1.28, 1.76, 1.64, 1.63, 1.66, 1.57)),
    "PPCA": ("PPCA, exact", (1.39, 1.61, 1.61, 1.57, 1.67, 0.90)),
    "not-MIWAE-PPCA, agnostic": ("linear, agnostic", (1.25, 1.47, 1.32, 1.27, 1.20, 0.78)),
    "not-MIWAE-PPCA, self-masking": ("linear, self_masking", (0.57, 1.31, 1.13, 0.99, 0.78, 0.72)),
    "not-MIWAE-PPCA, known": ("linear, known", (0.57, 1.31, 1.13, 0.99, 0.77, 0.72)),
    "MIWAE": ("mlp, mar", (1.19, 1.66, 1.62, 1.55, 1.72, 1.20)),
    "not-MIWAE, agnostic": ("mlp, agnostic", (0.80, 2.63, 1.30, 1.37, 1.43, 1.10)),
    "not-MIWAE, self-masking": ("mlp, self_masking", (1.88, 1.26, 1.08, 1.04, 1.48, 0.74)),
    "not-MIWAE, known": ("mlp, known", (0.74, 1.12, 1.07, 1.04, 1.38, 0.76)),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Hides the high values of half of the columns of UCI tables, imputes them with and without a model "
        "of what hides them, and sets the errors beside published ones. Results are kept cell by cell.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder with UCI/banknote.csv and the others")
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, help="which tables")
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, help="which rows of the table of results")
    parser.add_argument("--seeds", type=int, default=5, help="runs with seeds 0, 1, ...")
    parser.add_argument("--steps", type=int, default=1_500, help="steps of a fit, each on all points")
    parser.add_argument("--samples", type=int, default=200, help="draws of q for an imputation")
    parser.add_argument(
        "--from-zero",
        action="store_true",
        help="mechanisms of perceptrons start at 0, at the learning rate of linear decoders; give another --out",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for not_miwae.json and .md")
    return parser.parse_args()


def table(name: str, root: Path) -> Tensor:
    r"""The columns of a table without its target, standardized: (N, P)."""
    if name == "breast":
        X = load_breast_cancer().data
    else:
        columns = range(1, 9) if name == "yeast" else None
        X = np.genfromtxt(root / "UCI" / f"{name}.csv", delimiter=",", skip_header=1, usecols=columns)
        X = X if name == "yeast" else X[:, :-1]
    return torch.as_tensor((X - X.mean(0)) / X.std(0), dtype=torch.float32)


def observed(x: Tensor) -> Tensor:
    r"""The mask: in the first half of the columns what is above the mean is missing."""
    mask = torch.ones_like(x, dtype=torch.bool)
    half = x.shape[1] // 2
    mask[:, :half] = x[:, :half] <= 0
    return mask


def imputed(row: str, x: Tensor, mask: Tensor, seed: int, a: argparse.Namespace) -> tuple[Tensor, dict]:
    r"""The table with its holes filled, by the method of that row, and what else is known."""
    holes = x.masked_fill(~mask, math.nan)
    if row in IMPUTERS:
        return torch.as_tensor(IMPUTERS[row](seed).fit_transform(holes.double().numpy())).float(), {}
    if row == "PPCA, exact":
        ppca = PPCA.fit(holes.double(), x.shape[1] - 1)
        made = evaluate.impute(ppca, guides.Exact(ppca), holes.double(), num_samples=None, mask=mask)
        return made.float(), {"log_px": float(ppca.log_prob(holes.double(), mask).mean())}
    model, guide = fitted(row, holes, mask, seed, a)
    points = {"mask": mask, "seed": seed}
    made = evaluate.impute(model, guide, holes, torch.arange(len(x)), a.samples, **points)
    return made, {"elbo": float(evaluate.elbo(model, guide, holes, torch.arange(len(x)), 50, **points).mean())}


def fitted(row: str, holes: Tensor, mask: Tensor, seed: int, a: argparse.Namespace):
    r"""The pair of that row, fitted with a full-rank q for each point."""
    decoder, mechanism = row.split(", ")
    N, P = holes.shape
    torch.manual_seed(seed)
    model = DLGM(priors.StandardNormal(P - 1), likelihood(decoder, mechanism, P))
    guide = guides.FullRank(N, P - 1)
    if starts_at_linear(row, a):
        linear, _ = fitted(f"linear, {mechanism}", holes, mask, seed, a)
        model.likelihood.mechanism.load_state_dict(linear.likelihood.mechanism.state_dict())
    fit(model, guide, holes, mask=mask, steps=a.steps, batch_size=N, lr=rate(row, a), seed=seed)
    return model, guide


def rate(row: str, a: argparse.Namespace) -> float:
    r"""The learning rate of networks and mechanism of that row."""
    return RATES["linear" if a.from_zero else row.split(", ")[0]]


def starts_at_linear(row: str, a: argparse.Namespace) -> bool:
    r"""Whether the mechanism of that row starts at the one of a linear fit."""
    return row.startswith("mlp") and not row.endswith("mar") and not a.from_zero


def likelihood(decoder: str, mechanism: str, P: int) -> nn.Module:
    r"""Gaussian pixels with one learned σ, and p(m | x) around them, but for values missing at random."""
    net = nets.Linear(P - 1, P) if decoder == "linear" else nets.MLP(P - 1, P, HIDDEN, activation=nn.Tanh)
    p = likelihoods.FixedNormal(net)
    if mechanism == "mar":
        return p
    return likelihoods.Missingness(p, mechanism, sign=1 if mechanism == "known" else None)


def cell(name: str, row: str, seed: int, a: argparse.Namespace) -> dict:
    r"""The error of one fit, or the reason why there is none."""
    x = table(name, a.data_root)
    mask = observed(x)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of imputers that stop at max_iter
            made, more = imputed(row, x, mask, seed, a)
    except (ValueError, FloatingPointError) as error:
        return {"reason": f"{type(error).__name__}: {error}"}
    return {"rmse": float((made - x)[~mask].square().mean().sqrt()), **more}


def text(row: str, values: list[dict]) -> str:
    r"""Mean ± standard deviation over seeds."""
    errors = [v["rmse"] for v in values if "rmse" in v]
    if not errors or row in FIXED:
        return f"{errors[0]:.2f}" if errors else "–"
    spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
    return f"{statistics.mean(errors):.2f}{spread}" + (f" ({len(errors)})" if len(errors) != 5 else "")


def markdown(cells: dict) -> str:
    r"""All rows, each with the published one that it is to be read with."""
    lines = ["| row | " + " | ".join(TABLES) + " |", "|---" * (len(TABLES) + 1) + "|"]
    for row in ROWS:
        found = [[v for key, v in cells.items() if key.startswith(f"{name}/{row}/")] for name in TABLES]
        lines.append(f"| {row} | " + " | ".join(text(row, cell) for cell in found) + " |")
        for title, (ours, numbers) in PUBLISHED.items():
            if ours == row:
                lines.append(f"| *published: {title}* | " + " | ".join(f"*{v:.2f}*" for v in numbers) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    a.out.mkdir(parents=True, exist_ok=True)
    file = a.out / "not_miwae.json"
    cells = json.loads(file.read_text()) if file.exists() else {}
    all_of = [(name, row, seed) for seed in range(a.seeds) for row in a.rows for name in a.tables]
    wanted = [(name, row, seed) for name, row, seed in all_of if seed == 0 or row not in FIXED]
    for number, (name, row, seed) in enumerate(wanted, 1):
        key = f"{name}/{row}/{seed}"
        settings = {"steps": a.steps, "lr": rate(row, a)} if row in FITTED else {}
        settings |= {"start": "linear"} if starts_at_linear(row, a) else {}
        if key not in cells or any(cells[key].get(setting) != value for setting, value in settings.items()):
            cells[key] = cell(name, row, seed, a) | settings
            file.write_text(json.dumps(cells, indent=1) + "\n")
            print(f"{number}/{len(wanted)} {key}: {cells[key]}", flush=True)
    (a.out / "not_miwae.md").write_text(markdown(cells))
    print(markdown(cells))


if __name__ == "__main__":
    main()
