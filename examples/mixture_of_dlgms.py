r"""Does a mixture of deep latent Gaussian models find the digits by itself? Labels as clusters, summed out.

    python examples/mixture_of_dlgms.py

A digit x has a component y of K = 10 and a style t, each component with a decoder of its own:

    p(x) = Σ_y p(y) ∫ p(t) N(x; μ_y(t), σ² I) dt,    q(y, t | x) = q(y | x) q(t | x, y).

The guide enumerates y, so that the bound has the sum over components in it and not a draw; `fit` takes Pyro's
`TraceEnum_ELBO` as its objective. As Gaussian mixtures of scikit-learn do, it starts at k-means: the last biases are
its centres, and q(y | x) is taught its clusters first. What is compared is the adjusted Rand index of argmax q(y | x)
with the labels, which no method sees: k-means (whose clusters are also the start), and Gaussian mixtures with each kind
of covariance. Latents and width are those of (2, 4) x (none, 32) with the best bound on training points at seed 0.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import mean

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import TraceEnum_ELBO
from pyro.nn import PyroModule
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, elu

from pyro_dlgm import DLGM, data, fit, likelihoods, nets, priors
from pyro_dlgm.plots.images import draw_strips

SHAPE, K, LATENTS, HIDDEN, FEATURES = (1, 8, 8), 10, 4, 32, 128
BATCH, LR, TAUGHT = 100, 3e-3, 300  # TAUGHT: steps in which q(y | x) learns the clusters of k-means
COVARIANCES = ("full", "tied", "diag")
SHOWN = 9  # images of each component


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Clusters the digits of scikit-learn by a mixture of deep latent Gaussian models, k-means and "
        "Gaussian mixtures: adjusted Rand index on test points. Writes mixture_of_dlgms.json and mixture_of_dlgms.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=40, help="passes through the training points")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each a start of every method")
    parser.add_argument("--out", default="runs/mixture_of_dlgms", help="folder for the results")
    return parser.parse_args()


class PerClass(nn.Module):
    r"""Creates v -> v W_y + b_y, (..., I) -> (..., O), where y (..., K) is one-hot; leading axes broadcast."""

    def __init__(self, num_in: int, num_out: int, scale: float = 1.0):
        super().__init__()
        self.shape = (num_in, num_out)
        self.W = nn.Parameter(scale * torch.randn(K, num_in * num_out) / num_in**0.5)
        self.b = nn.Parameter(torch.zeros(K, num_out))

    def forward(self, v: Tensor, y: Tensor) -> Tensor:
        W = (y @ self.W).unflatten(-1, self.shape)
        return (v.unsqueeze(-2) @ W).squeeze(-2) + y @ self.b


class Decoders(nn.Module):
    r"""Creates μ_y(t) from [t | y]: K networks of one hidden layer; the last biases are ``centres`` (K, 64)."""

    in_shape, out_shape = (LATENTS + K,), SHAPE

    def __init__(self, centres: Tensor):
        super().__init__()
        self.hidden, self.last = PerClass(LATENTS, HIDDEN, 0.3), PerClass(HIDDEN, centres.shape[1], 0.3)
        self.last.b.data.copy_(centres)

    def forward(self, code: Tensor) -> Tensor:
        t, y = code.split([LATENTS, K], -1)
        return self.last(elu(self.hidden(t, y)), y).unflatten(-1, SHAPE)


class Mixture(PyroModule):
    r"""Creates p(y) p(t) p(x | t, y)."""

    def __init__(self, centres: Tensor):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(K))
        self.p = DLGM(priors.StandardNormal(LATENTS), likelihoods.FixedNormal(Decoders(centres), 0.2))

    def forward(self, x=None, index=None, *, size=None, **_):
        with pyro.plate("data", size or len(x), subsample=index if size else None):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.logits))
            return self.p.datum(x, given=y)


class Guide(PyroModule):
    r"""Creates q(y | x) q(t | x, y)."""

    def __init__(self):
        super().__init__()
        self.classifier = nets.MLP(SHAPE, K, (FEATURES,))
        self.encoder, self.head = nets.MLP(SHAPE, FEATURES, (FEATURES,)), PerClass(FEATURES, 2 * LATENTS)

    def forward(self, x=None, index=None, *, size=None, **_):
        with pyro.plate("data", size or len(x), subsample=index if size else None):
            q = dist.OneHotCategorical(logits=self.classifier(x))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            m, log_s = self.head(elu(self.encoder(x)), y).chunk(2, -1)
            pyro.sample("t", dist.Normal(m, log_s.exp()).to_event(1))

    @torch.no_grad()
    def clusters(self, x: Tensor) -> Tensor:
        r"""argmax q(y | x) of each point, (B,)."""
        return self.classifier(x).argmax(-1)


def teach(guide: Guide, digits: data.Dataset, clusters: Tensor) -> None:
    r"""Fits q(y | x) to the clusters of k-means, smoothed, so that it may still change its mind."""
    adam = torch.optim.Adam(guide.classifier.parameters(), LR)
    for _ in range(TAUGHT):
        adam.zero_grad()
        logits = guide.classifier(digits.transform(digits.train))
        cross_entropy(logits, clusters, label_smoothing=0.1).backward()
        adam.step()


def run(digits: data.Dataset, epochs: int, seed: int) -> tuple[dict, Mixture]:
    r"""The adjusted Rand index of each method on the test points, and the mixture."""
    x, x_test = ((digits.train + 0.5) / 17).flatten(1).numpy(), digits.test.flatten(1).numpy()
    kmeans = KMeans(K, n_init=10, random_state=seed).fit(x)
    start = time.perf_counter()
    torch.manual_seed(seed)
    mixture, guide = Mixture(torch.as_tensor(kmeans.cluster_centers_)), Guide()
    teach(guide, digits, torch.as_tensor(kmeans.labels_).long())
    taught, objective = guide.clusters(digits.test), TraceEnum_ELBO(max_plate_nesting=1)
    options = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "transform": digits.transform, "seed": seed}
    result = fit(mixture, guide, digits.train, objective=objective, **options)
    print(f"seed {seed}: {result.history[-1]['elbo']:.2f} nats per training point, {time.perf_counter() - start:.0f} s")
    found = {"mixture of DLGMs": guide.clusters(digits.test), "q(y | x) as taught": taught}
    found["k-means"] = kmeans.predict(x_test)
    for kind in COVARIANCES:
        gaussian = GaussianMixture(K, covariance_type=kind, n_init=3, reg_covar=1e-3, random_state=seed)
        found[f"Gaussians, {kind}"] = gaussian.fit(x).predict(x_test)
    return {name: float(adjusted_rand_score(digits.test_labels, y)) for name, y in found.items()}, mixture


@torch.no_grad()
def picture(mixture: Mixture, rand: dict[str, list[float]]) -> Figure:
    r"""Draws of each component, its image at t = 0 first, next to the Rand indices, a dot for each seed."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    left, right = figure.subfigures(1, 2)
    t = torch.randn(SHOWN, LATENTS, generator=torch.Generator().manual_seed(0)).index_fill(0, torch.tensor([0]), 0.0)
    draw = lambda k: mixture.p.likelihood(t, given=torch.eye(K)[k].expand(SHOWN, K)).mean  # noqa: E731
    draw_strips(left, [(f"y = {k}", draw(k)) for k in range(K)])
    axis = right.subplots()
    for place, values in enumerate(reversed(rand.values())):
        axis.barh(place, mean(values), color="C0" if place == len(rand) - 1 else "0.8")
        axis.plot(values, [place] * len(values), "k.", ms=4)
    axis.set(yticks=range(len(rand)), yticklabels=list(reversed(rand)), xlabel="adjusted Rand index on test points")
    return figure


def main() -> None:
    a = arguments()
    out, digits = Path(a.out), data.digits()
    out.mkdir(parents=True, exist_ok=True)
    runs = [run(digits, a.epochs, seed) for seed in a.seeds]
    rand = {name: [found[name] for found, _ in runs] for name in runs[0][0]}
    print(f"adjusted Rand index on {len(digits.test)} test digits, seeds {a.seeds}")
    for name, values in rand.items():
        print(f"{name:20} {mean(values):.3f}  ({', '.join(f'{v:.3f}' for v in values)})")
    (out / "mixture_of_dlgms.json").write_text(json.dumps({"arguments": vars(a), "rand": rand}, indent=2) + "\n")
    picture(runs[0][1], rand).savefig(out / "mixture_of_dlgms.png", dpi=110)


if __name__ == "__main__":
    main()
