r"""Can one guide hold rows for the cells and one dense q for the genes? A factor model of single-cell counts.

    python examples/cell_factors.py --file counts_mouse_bladder.npz

A cell i with ℓ_i molecules in all has the counts

    x_ij ~ NegativeBinomial(mean ℓ_i exp(b_j + z_i W_j), dispersion r_j),    z_i ~ N(0, I),    W_kj ~ N(0, ½²).

z_i are the local latents, W and b the global ones: `AutoPerPoint` keeps a row for each cell, of which a step reads and
updates those of its batch, and one of Pyro's autoguides for W and b. The size ℓ_i comes as what is given. Cells held
out get their rows by `evaluate.infer`, W and b at the centre of their q, and there log p(x) is annealed. Beside them:
the same model without factors, whose log p(x) is a sum over genes, and clusters of cells: k-means of the means of z
against k-means of as many principal components of log(1 + 10⁴ x / ℓ), as many clusters as there are labels.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from pyro_dlgm import Points, evaluate, fit, guides
from pyro_dlgm.evaluate.estimates import Mean

GENES, LATENTS, BATCH, LR, ROW_LR = 1000, 10, 128, 1e-2, 1e-1
ALONE, INFER = 500, {"tol": 0.1}  # steps of the model without factors; how far E-steps go, in nats
ANNEALED = {"num_chains": 4, "num_temperatures": 200, "num_leapfrog": 5}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Fits a negative-binomial factor model to single-cell counts and scores cells that it has not "
        "seen, in nats per cell. Writes cell_factors.json and cell_factors.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--file", required=True, help="npz file with counts (cells, genes), total_counts and labels")
    parser.add_argument("--epochs", type=int, default=60, help="passes through the training cells")
    parser.add_argument("--held-out", type=int, default=200, help="cells that test")
    parser.add_argument(
        "--annealed", type=int, default=30, help="test cells whose log p(x) is annealed, the first ones"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, starting values, batches and samples")
    parser.add_argument("--out", default="runs/cell_factors", help="folder for the results")
    return parser.parse_args()


class Factors(PyroModule):
    r"""Creates the program p(W, b) ∏_i p(z_i) p(x_i | z_i, W, b, ℓ_i).

    Arguments:
        rate: the share of each gene in the counts of all, (P,): the prior of b is centred there.
    """

    def __init__(self, rate: Tensor):
        super().__init__()
        self.register_buffer("centre", rate.log())
        self.log_r = nn.Parameter(torch.zeros(len(rate)))

    def counts(self, log_mean: Tensor) -> dist.TorchDistribution:
        r"""p(x | its mean), of event shape (P,)."""
        return dist.NegativeBinomial(self.log_r.exp(), logits=log_mean - self.log_r).to_event(1)

    def forward(self, x=None, index=None, *, given=None, size=None):
        r"""Samples W and b, then z and x of each cell; ``given`` is ℓ (B, 1)."""
        zeros = self.centre.new_zeros
        W = pyro.sample("W", dist.Normal(zeros(LATENTS, len(self.centre)), 0.5).to_event(2))
        b = pyro.sample("b", dist.Normal(self.centre, 1.0).to_event(1))
        with pyro.plate("cells", size or len(x), subsample=index if size else None):
            z = pyro.sample("z", dist.Normal(zeros(LATENTS), 1.0).to_event(1))
            zW = z @ (W.squeeze(-3) if W.dim() > 2 else W)  # S draws of W come as (S, 1, D, P)
            return pyro.sample("x", self.counts(given.log() + b + zW), obs=x)


def cells(file: str, held_out: int, seed: int) -> tuple[Points, Points, np.ndarray, np.ndarray]:
    r"""Training and test cells with their sizes ℓ (B, 1) as what is given, and the labels of both."""
    with np.load(file) as archive:
        x = torch.as_tensor(archive["counts"][:, :GENES].astype(np.float32))
        given, labels = torch.as_tensor(archive["total_counts"].astype(np.float32)).unsqueeze(1), archive["labels"]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    test, train = order[:held_out], order[held_out:]
    return Points(x[train], given=given[train]), Points(x[test], given=given[test]), labels[train], labels[test]


def without_factors(rate: Tensor, train: Points, test: Points) -> Tensor:
    r"""log p(x) of test cells (B,), where z is 0: b and r by maximum likelihood on batches of training cells."""
    program, b = Factors(rate), nn.Parameter(rate.log())
    adam = torch.optim.Adam([program.log_r, b], lr=0.05)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(adam, ALONE)
    for step in range(ALONE):
        some = train[torch.arange(step * BATCH, (step + 1) * BATCH) % len(train)]
        adam.zero_grad()
        (-program.counts(some.given.log() + b).log_prob(some.x).mean()).backward()
        adam.step(), slower.step()
    with torch.no_grad():
        return program.counts(test.given.log() + b).log_prob(test.x)


def train_and_score(train: Points, test: Points, a: argparse.Namespace) -> tuple[dict, Tensor, Tensor]:
    r"""The numbers, and the means of z of training and of test cells."""
    rate = (train.x.sum(0) + 1) / train.given.sum()
    program = Factors(rate)
    guide = guides.AutoPerPoint(program, len(train), plate="cells")
    rates = {"lr": LR, "row_lr": ROW_LR, "schedule": "cosine"}
    run = fit(program, guide, train, epochs=a.epochs, batch_size=BATCH, seed=a.seed, **rates)
    start = time.perf_counter()
    fitted = evaluate.infer(program, guide, test, seed=a.seed, **INFER)
    seconds = {"fit": run.history[-1]["seconds"], "infer": time.perf_counter() - start}
    pair, test = evaluate.given_globals(program, fitted), test.numbered()
    bound, few = evaluate.elbo(*pair, test, seed=a.seed), test[: a.annealed]
    annealed = evaluate.ais(*pair, few, seed=a.seed, **ANNEALED)
    result = {"train_elbo": run.history[-1]["elbo"], "elbo": summary(bound), "log_px": summary(annealed.log_px)}
    result |= {"gap": summary(annealed.log_px - bound[: a.annealed]), "seconds": seconds}
    result["converged"] = fitted.convergence.converged.double().mean().item()
    result["gain"] = summary(bound - without_factors(rate, train, test))
    return result, means(guide), means(fitted)


@torch.no_grad()
def means(guide: guides.AutoPerPoint) -> Tensor:
    r"""The mean of z of each cell that the guide has a row for, (B, D)."""
    return guide.posterior(index=torch.arange(len(guide.inner.rows))).mean


def summary(values: Tensor) -> dict[str, float]:
    r"""The mean over cells with its standard error."""
    return {"mean": values.mean().item(), "standard_error": Mean.of(values).standard_error}


def clusters(z: np.ndarray, labels: np.ndarray, seed: int) -> float:
    r"""The adjusted Rand index of k-means against the labels."""
    found = KMeans(len(np.unique(labels)), n_init=10, random_state=seed).fit_predict(z)
    return float(adjusted_rand_score(labels, found))


def picture(z: np.ndarray, labels: np.ndarray, num: int, seed: int) -> Figure:
    r"""The means of z of all cells in two dimensions (t-SNE), coloured by label; the first ``num`` train."""
    place = TSNE(init="pca", random_state=seed, perplexity=min(30, len(z) // 4)).fit_transform(z)
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    parts = {f"{num} training cells": slice(0, num), f"{len(z) - num} cells held out": slice(num, None)}
    for axis, (title, rows) in zip(figure.subplots(1, 2, sharex=True, sharey=True), parts.items(), strict=True):
        axis.scatter(*place.T, s=4, c="0.9")
        axis.scatter(*place[rows].T, s=7, c=labels[rows], cmap="tab20", vmin=labels.min(), vmax=labels.max())
        axis.set(title=title, xticks=[], yticks=[])
    return figure


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    train, test, train_labels, test_labels = cells(a.file, a.held_out, a.seed)
    result, z, z_test = train_and_score(train, test, a)
    components = PCA(LATENTS, random_state=a.seed).fit((train.x / train.given * 1e4).log1p())
    result["rand"] = {
        "factors": clusters(z_test.numpy(), test_labels, a.seed),
        "principal components": clusters(
            components.transform((test.x / test.given * 1e4).log1p()), test_labels, a.seed
        ),
    }
    print(f"{len(train)} cells train, {len(test)} test, {train.x.shape[1]} genes, {LATENTS} factors, seed {a.seed}")
    for name in ("elbo", "gain", "gap", "log_px"):
        print(f"{name:8} {result[name]['mean']:10.2f} ± {result[name]['standard_error']:.2f} nats per cell held out")
    print(f"adjusted Rand index of cells held out {result['rand']}, converged {result['converged']:.2f}")
    print(f"seconds {result['seconds']}")
    (out / "cell_factors.json").write_text(json.dumps({"arguments": vars(a), "results": result}, indent=2) + "\n")
    both = np.concatenate([z, z_test]), np.concatenate([train_labels, test_labels])
    picture(*both, len(train), a.seed).savefig(out / "cell_factors.png", dpi=110)


if __name__ == "__main__":
    main()
