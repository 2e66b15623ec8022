r"""Does a nonlinear decoder raise the held-out log-likelihood over what scikit-learn's linear models reach?

    python examples/scikit_learn.py

A `Pipeline`, searched by `GridSearchCV` over ``n_components``, takes the score of each model as it
is: the mean log-likelihood of points that were held out, in nats. scikit-learn's `PCA`, `FactorAnalysis` and
`GaussianMixture` and `PPCA` say log p(x) exactly; of a `DeepLatentGaussian` the score is a lower bound, IWAE-K.

    wine    178 x 13, `StandardScaler` in the pipeline; log-densities are put back into the units of the data
    digits  8x8 values v in 0..16 as x = (v + u) / 17 with one seeded u ~ U(0, 1), 1,797 images, flat

A quarter of the points tests, a stratified split by the seed; the search sees the others alone. Differences to the best
model of scikit-learn are paired over the points that test.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.sklearn import PPCA, DeepLatentGaussian

GRIDS = {"wine": [1, 2, 3, 4, 6], "digits": [8, 16]}
OUR_GRIDS = {"wine": [1, 2, 4], "digits": [8, 16]}  # each fit of a network takes seconds
COMPONENTS = {"wine": [1, 2, 3, 4], "digits": [5, 10, 20]}  # of a mixture
FOLDS = {"wine": 5, "digits": 2}
TRAINING = {"wine": {}, "digits": {"image_shape": (1, 8, 8), "max_iter": 1000}}  # beside the defaults
SAMPLES = 1000  # of the bound on the points that test
EACH = {"DLGM, a σ for each value": "fixed-per-pixel"}
OURS = {"wine": {"DLGM, one σ": "fixed"} | EACH, "digits": EACH}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Searches n_components by held-out log-likelihood, in nats per point. Writes scikit_learn.json and "
        "scikit_learn.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", default=list(GRIDS), choices=list(GRIDS), help="data sets")
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, dequantization, and trainings")
    parser.add_argument("--jobs", type=int, default=1, help="processes of a search")
    parser.add_argument("--out", default="runs/scikit_learn", help="folder for the results")
    return parser.parse_args()


def points(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Training and test points, in float32."""
    v, labels = (load_wine if name == "wine" else load_digits)(return_X_y=True)
    if name == "digits":
        v = (v + np.random.default_rng(seed).random(v.shape)) / 17
    return train_test_split(v.astype(np.float32), test_size=0.25, random_state=seed, stratify=labels)


def searches(name: str, seed: int) -> dict[str, tuple]:
    r"""Each model with its grid."""
    ours = {
        said: DeepLatentGaussian(likelihood=p, random_state=seed, **TRAINING[name]) for said, p in OURS[name].items()
    }
    theirs = {"PCA": PCA(), "FactorAnalysis": FactorAnalysis(max_iter=5000)}
    mixtures = {
        f"GaussianMixture, {kind}": GaussianMixture(covariance_type=kind, reg_covar=1e-4, random_state=seed)
        for kind in ("diag", "full")
    }
    grids = ((theirs | {"PPCA": PPCA()}, GRIDS), (ours, OUR_GRIDS), (mixtures, COMPONENTS))
    return {key: (model, grid[name]) for models, grid in grids for key, model in models.items()}


def searched(model, grid: list[int], name: str, train: np.ndarray, a: argparse.Namespace) -> GridSearchCV:
    r"""The pipeline with the number of components that the folds choose, fitted to all that trains."""
    pipe = Pipeline([("scale", StandardScaler() if name == "wine" else "passthrough"), ("density", model)])
    folds = KFold(FOLDS[name], shuffle=True, random_state=a.seed)
    return GridSearchCV(pipe, {"density__n_components": grid}, cv=folds, n_jobs=a.jobs, error_score="raise").fit(train)


def scores(search: GridSearchCV, x: np.ndarray) -> np.ndarray:
    r"""log p(x) of each point, or the bound, in the units of x."""
    pipe = search.best_estimator_
    if isinstance(pipe["density"], DeepLatentGaussian):
        pipe.set_params(density__num_samples=SAMPLES)
    scale = 0.0 if pipe["scale"] == "passthrough" else np.log(pipe["scale"].scale_).sum()
    return pipe.score_samples(x).astype(np.float64) - scale


def row(model, grid: list[int], name: str, train: np.ndarray, test: np.ndarray, a: argparse.Namespace) -> dict:
    r"""What one model reaches: what the search chose, the scores of the folds, and those of the points that test."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not to be trusted")  # a bound all the same, and said so
        search = searched(model, grid, name, train, a)
        held_out = scores(search, test)
    folds = search.cv_results_["mean_test_score"].tolist()
    chosen = search.best_params_["density__n_components"]
    seconds = time.perf_counter() - began
    return {"grid": grid, "folds": folds, "chosen": chosen, "scores": held_out.tolist(), "seconds": seconds}


def compared(rows: dict[str, dict]) -> dict[str, dict]:
    r"""Adds means with standard errors to the rows, and paired differences to the best one of scikit-learn."""
    theirs = [key for key in rows if key.startswith(("PCA", "Factor", "Gaussian"))]
    best = max(theirs, key=lambda key: np.mean(rows[key]["scores"]))
    for found in rows.values():
        of = torch.tensor(found["scores"])
        found["mean"] = Mean.of(of)._asdict()
        found["difference"] = Mean.of(of - torch.tensor(rows[best]["scores"]))._asdict()
        found["beside"] = best
    return rows


def picture(results: dict[str, dict]) -> Figure:
    r"""Scores of the folds over the number of components."""
    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    for axis, (name, rows) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for key, found in rows.items():
            axis.plot(found["grid"], found["folds"], ".-", label=key)
        axis.set(title=name, xlabel="n_components", ylabel="held-out score of the folds, nats per point")
    axis.legend(fontsize=8)
    return figure


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in a.data:
        train, test = points(name, a.seed)
        print(f"{name}: {len(train)} points train, {len(test)} test, seed {a.seed}", flush=True)
        rows = {key: row(*pair, name, train, test, a) for key, pair in searches(name, a.seed).items()}
        results[name] = compared(rows)
        for key, found in rows.items():
            mean, less = found["mean"], found["difference"]
            print(
                f"{key:26} {found['chosen']:3} components {mean['mean']:8.2f} ± {mean['standard_error']:.2f} nats, "
                f"less {found['beside']} {less['mean']:7.2f} ± {less['standard_error']:.2f}, {found['seconds']:.0f} s"
            )
    (out / "scikit_learn.json").write_text(json.dumps({"arguments": vars(a), "results": results}, indent=2) + "\n")
    picture(results).savefig(out / "scikit_learn.png", dpi=110)


if __name__ == "__main__":
    main()
