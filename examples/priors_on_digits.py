r"""Does a prior that is learned say more of the digits than N(0, I), and do its components find the classes?

    python examples/priors_on_digits.py
    python examples/priors_on_digits.py --data mnist --data-root DIR

One decoder, one encoder, one start; only p(t) differs:

    N(0, I);    Σ_k π_k N(m_k, diag s_k²), K = 10;    1/K Σ_k q(t | u_k), K = 50, a VampPrior.

The digits of scikit-learn are dequantized, with Gaussian pixels; those of MNIST are binarized, with Bernoulli pixels.
Judged by log p(x) of test points, certified by bidirectional Monte Carlo; differences to N(0, I) are paired, point by
point. Active units are those whose posterior mean varies over the test points by more than 0.01. Clusters, which no
method was told, are the adjusted Rand index with the labels: of argmax p(k | x), where the prior has components, and of
k-means (10 clusters) on the means of q.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.plots.images import draw_strips

NAMES, BATCH = ("N(0, I)", "mixture", "VampPrior"), 100
COMPONENTS, PSEUDO_INPUTS, CLASSES = 10, 50, 10
DIAGNOSED = 1000  # test images in which units are counted as active
SHOWN = 10  # components, and draws, in the picture


class Setting(NamedTuple):
    r"""What differs from data set to data set: p(x | t) of a network, sizes, epochs and the learning rate."""

    likelihood: Callable[[nn.Module], likelihoods.Likelihood]
    latents: int
    hidden: tuple[int, ...]
    epochs: int
    lr: float


SETTINGS = {
    "digits": Setting(partial(likelihoods.FixedNormal, scale=0.2), 16, (128,), 200, 3e-3),
    "mnist": Setting(likelihoods.Bernoulli, 32, (300, 300), 20, 1e-3),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains one model of digits under three priors: certified log p(x) on test points, active units, "
        "clusters. Writes priors_on_digits.json and priors_on_digits.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", choices=SETTINGS, default="digits", help="those of scikit-learn, or MNIST")
    parser.add_argument("--data-root", help="folder that holds MNIST/raw, unpacked; of --data mnist")
    parser.add_argument("--epochs", type=int, help="passes through the training points; by default 200, MNIST 20")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="each a start of every row")
    parser.add_argument("--points", type=int, default=64, help="test points whose log p(x) is certified")
    parser.add_argument("--tol", type=float, default=0.1, help="nats by which the mean of log p(x) may be off")
    parser.add_argument("--out", default="runs/priors_on_digits", help="folder for the results")
    return parser.parse_args()


def loaded(a: argparse.Namespace) -> data.Dataset:
    r"""The images."""
    if a.data == "digits":
        return data.digits()
    if a.data_root is None:
        raise SystemExit("--data mnist needs --data-root, the folder that holds MNIST/raw")
    return data.mnist(a.data_root)


def made(name: str, digits: data.Dataset, setting: Setting, seed: int) -> tuple[DLGM, guides.Amortized]:
    r"""The pair with that prior; decoder and encoder start from the same numbers whatever it is."""
    torch.manual_seed(seed)
    D, shape, hidden = setting.latents, digits.image_shape, setting.hidden
    guide = guides.Amortized(nets.MLP(shape, hidden[-1], hidden), D)
    likelihood = setting.likelihood(nets.MLP(D, shape, hidden))
    rows = torch.randperm(len(digits.train))[:PSEUDO_INPUTS]
    prior = {
        "N(0, I)": lambda: priors.StandardNormal(D),
        "mixture": lambda: priors.MixtureOfNormals(D, COMPONENTS, seed=seed),
        "VampPrior": lambda: priors.VampPrior(guide, digits.transform(digits.train[rows])),
    }[name]()
    return DLGM(prior, likelihood), guide


def clusters(model: DLGM, guide: guides.Amortized, digits: data.Dataset, seed: int) -> dict[str, float]:
    r"""The adjusted Rand index of the clusters of test points with their labels."""
    with torch.no_grad():
        train, test = (guide.posterior(x).mean.numpy() for x in (digits.transform(digits.train), digits.test))
    found = {"k-means of codes": KMeans(CLASSES, n_init=10, random_state=seed).fit(train).predict(test)}
    if isinstance(model.prior, priors.Mixture):
        found["components"] = evaluate.cluster_probabilities(model, guide, digits.test, seed=seed).argmax(-1)
    return {name: float(adjusted_rand_score(digits.test_labels, labels)) for name, labels in found.items()}


def row(name: str, digits: data.Dataset, seed: int, a: argparse.Namespace) -> tuple[dict, Tensor, DLGM]:
    r"""What one prior gives at one seed, as plain values; the certified log p(x) of each point; and the model."""
    setting = SETTINGS[a.data]
    model, guide = made(name, digits, setting, seed)
    how = {"epochs": setting.epochs if a.epochs is None else a.epochs, "batch_size": BATCH, "lr": setting.lr}
    fit(model, guide, digits.train, transform=digits.transform, **how, seed=seed, progress=True)
    found = evaluate.evidence(model, None, digits.test[: a.points], num_simulated=a.points, tol=a.tol, seed=seed)
    diagnosis = evaluate.diagnose(model, guide, digits.test[:DIAGNOSED], num_simulated=0, seed=seed)
    elbo = evaluate.elbo(model, guide, digits.test, num_samples=20, seed=seed)
    result = found.summary() | {"elbo": Mean.of(elbo)._asdict(), "rand": clusters(model, guide, digits, seed)}
    result |= {"active units": int(diagnosis.active_by_variance.sum()), "latents": setting.latents}
    return result, found.log_px.value, model


def said(name: str, seed: int, result: dict, gain: Mean) -> str:
    r"""One line on a row."""
    log_p, bdmc, rand = result["log_px"], result["bdmc"], result["rand"]
    return (
        f"seed {seed}, {name}: log p(x) {log_p['mean']:.2f}, "
        f"BDMC gap {bdmc['gap']:.2f} ± {bdmc['standard_error']:.2f}, "
        f"minus N(0, I) {gain.mean:+.2f} ± {gain.standard_error or 0:.2f}, ELBO {result['elbo']['mean']:.2f}, "
        f"{result['active units']} of {result['latents']} units active, Rand index "
        + ", ".join(f"{key} {value:.2f}" for key, value in rand.items())
    )


@torch.no_grad()
def picture(models: dict[str, DLGM]) -> Figure:
    r"""What is drawn from each prior, the means of the mixture's components, and the pseudo-inputs of the VampPrior."""
    torch.manual_seed(0)
    decoded = lambda name, t: models[name].likelihood(t).mean  # noqa: E731
    strips = [(f"draws: {name}", decoded(name, models[name].prior().sample((SHOWN,)))) for name in NAMES]
    strips += [("means m_k", decoded("mixture", models["mixture"].prior.loc[:SHOWN]))]
    strips += [("inputs u_k", models["VampPrior"].prior.inputs[:SHOWN])]
    figure = Figure(figsize=(8, 4), layout="constrained")
    draw_strips(figure, strips)
    return figure


def main() -> None:
    a = arguments()
    out, digits = Path(a.out), loaded(a)
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, list] = {name: [] for name in NAMES}
    for seed in a.seeds:
        rows = {name: row(name, digits, seed, a) for name in NAMES}
        for name, (result, values, _) in rows.items():
            gain = Mean.of(values - rows[NAMES[0]][1])
            results[name].append(result | {"seed": seed, "gain": gain._asdict()})
            print(said(name, seed, result, gain), flush=True)
    record = {"arguments": vars(a), "protocol": digits.protocol, "results": results}
    (out / "priors_on_digits.json").write_text(json.dumps(record, indent=2) + "\n")
    picture({name: model for name, (_, _, model) in rows.items()}).savefig(out / "priors_on_digits.png", dpi=110)


if __name__ == "__main__":
    main()
