r"""How sure is a decoder of what it decodes? Credible bands from a Bayesian w.

    python examples/credible_curves.py

One latent t for the four measurements of an iris flower, and a decoder whose weights have a prior:

    w ~ N(0, I),    t_i ~ N(0, 1),    x_i | t_i, w ~ N(μ(t_i; w), diag σ²),    μ(t; w) = b + W φ(t),

with φ(t) = t and bumps. `priors.bayesian` makes global latents of W and b, `AutoPerPoint` gives each flower a row, and
w one of Pyro's autoguides with all correlations. A draw of w is a curve, and the band at t holds 90% of the curves:
from 15 flowers and from 105 of them, it narrows with the data, and opens where there are none. Is it honest? One
measurement of each of 45 flowers is masked; its 90% interval is that of draws of w, of t (from an E-step on the other
three) and of x, beside the interval that takes w at its centre for the truth.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer.autoguide import init_to_value
from sklearn.datasets import load_iris
from torch import Tensor, nn

from pyro_dlgm import DLGM, Points, evaluate, fit, guides, likelihoods, nets, priors

NAMES = ("sepal length", "sepal width", "petal length", "petal width")
BUMPS, LEVEL, HELD_OUT, DRAWS = (-2.0, -1.0, 0.0, 1.0, 2.0), 0.9, 45, 400
LR, ROW_LR = 2e-2, 5e-2
SLOPES = "likelihood.net.linear.body.1.weight"  # the site of W


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Fits one latent with a Bayesian decoder to few and to more flowers; bands of the decoded curves "
        "and coverage of 90% intervals. Writes credible_curves.json and credible_curves.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--flowers", type=int, nargs="+", default=[15, 105], help="how many train")
    parser.add_argument("--steps", type=int, default=1500, help="joint steps on q and σ")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, batches and draws")
    parser.add_argument("--out", default="runs/credible_curves", help="folder for the results")
    return parser.parse_args()


class Curve(nn.Module):
    r"""Creates μ(t) = b + W φ(t), t (..., 1) -> (..., 4)."""

    in_shape, out_shape = (1,), (len(NAMES),)

    def __init__(self):
        super().__init__()
        self.register_buffer("bumps", torch.tensor(BUMPS))
        self.linear = nets.Linear(1 + len(BUMPS), len(NAMES))

    def forward(self, t: Tensor) -> Tensor:
        return self.linear(torch.cat([t, (-0.5 * (t - self.bumps).square()).exp()], -1))


def flowers(seed: int) -> tuple[Tensor, Tensor]:
    r"""Flowers that may train and those held out, in an order of the seed, standardized by the former."""
    x = torch.as_tensor(load_iris().data, dtype=torch.float32)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    train, test = x[:-HELD_OUT], x[-HELD_OUT:]
    return (train - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)


def train(x: Tensor, a: argparse.Namespace):
    r"""The model and its guide, which starts at the first principal component: t of each flower, and slopes."""
    torch.manual_seed(a.seed)
    scale = torch.full((len(NAMES),), 0.5)
    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(priors.bayesian(Curve()), scale, floor=0.05))
    first = x @ torch.linalg.svd(x, full_matrices=False).Vh[:1].T
    first = first / first.std() * torch.sign(first[:, 0] @ x[:, 2])  # petals grow with t
    slopes = torch.zeros(len(NAMES), 1 + len(BUMPS))
    slopes[:, 0] = x.T @ first[:, 0] / len(x)
    start = init_to_value(values={"t": first, SLOPES: slopes})
    guide = guides.AutoPerPoint(model, len(x), plate="data", globals="AutoMultivariateNormal", init=start)
    guide.setup(x, torch.arange(len(x)), size=len(x))
    fit(model, guide, x, steps=a.steps, batch_size=len(x), lr=LR, row_lr=ROW_LR, seed=a.seed)
    return model, guide


def decoded(model: DLGM, w: dict[str, Tensor], t: Tensor):
    r"""p(x | t, w) for given values of w."""
    return poutine.condition(model.emission, data=w)(t)


@torch.no_grad()
def curves(model: DLGM, guide, t: Tensor, num: int) -> Tensor:
    r"""μ(t; w) for draws of w, (num, T, 4)."""
    drawn = guide.draw_globals(num)
    return torch.stack([decoded(model, {n: v[s].squeeze(0) for n, v in drawn.items()}, t).mean for s in range(num)])


def interval(values: Tensor) -> tuple[Tensor, Tensor]:
    r"""The central interval that holds 90% of the values along the first axis."""
    low, high = torch.quantile(values, torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]), 0)
    return low, high


def coverage(model: DLGM, guide, x: Tensor, a: argparse.Namespace) -> dict[str, float]:
    r"""The part of masked measurements, each of a flower in turn, inside of their interval; and its mean width."""
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[torch.arange(len(x)), torch.arange(len(x)) % x.shape[1]] = False
    fitted = evaluate.infer(model, guide, Points(x, mask=mask), seed=a.seed)
    torch.manual_seed(a.seed)
    with torch.no_grad():
        t = fitted.posterior(x, torch.arange(len(x)), mask).sample((DRAWS,))
        drawn, result = guide.draw_globals(DRAWS), {}
        for name, of in {"draws of w": lambda s, v: v[s].squeeze(0), "w at its centre": None}.items():
            at = lambda s, of=of: {n: of(s, v) for n, v in drawn.items()} if of else guide.centre()  # noqa: E731
            low, high = interval(torch.stack([decoded(model, at(s), t[s]).sample() for s in range(DRAWS)]))
            inside = (low <= x) & (x <= high)
            result[name] = inside[~mask].double().mean().item()
            result[f"width, {name}"] = (high - low)[~mask].mean().item()
    return result


def picture(found: dict[int, tuple]) -> Figure:
    r"""The bands of the four decoded curves, a row for each number of flowers, with the flowers at the means of t."""
    figure = Figure(figsize=(10, 2.6 * len(found)), layout="constrained")
    t = torch.linspace(-3.5, 3.5, 80).unsqueeze(1)
    rows = figure.subplots(len(found), len(NAMES), sharex=True, sharey="col", squeeze=False)
    for axes, (num, (model, guide, x)) in zip(rows, found.items(), strict=True):
        mu, place = curves(model, guide, t, DRAWS), guide.posterior(index=torch.arange(len(x))).mean.detach()
        for j, axis in enumerate(axes):
            axis.fill_between(t[:, 0], *interval(mu[..., j]), color="C0", alpha=0.3, lw=0)
            axis.plot(t, mu[:, :, j].mean(0), "C0")
            axis.plot(place, x[:, j], "k.", ms=3)
        axes[0].set_ylabel(f"{num} flowers")
    for j, name in enumerate(NAMES):
        rows[0, j].set_title(name, size=10)
        rows[-1, j].set_xlabel("t")
    return figure


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    x, test = flowers(a.seed)
    found, results = {}, {}
    for num in a.flowers:
        model, guide = train(x[:num], a)
        found[num], results[num] = (model, guide, x[:num]), coverage(model, guide, test, a)
        print(f"{num} flowers: " + ", ".join(f"{name} {value:.3f}" for name, value in results[num].items()))
    protocol = f"{HELD_OUT} flowers held out, one measurement of each masked, {DRAWS} draws, seed {a.seed}"
    print(f"coverage of {LEVEL:.0%} intervals and their width in standard deviations; {protocol}")
    (out / "credible_curves.json").write_text(json.dumps({"protocol": protocol, "results": results}, indent=2) + "\n")
    picture(found).savefig(out / "credible_curves.png", dpi=110)


if __name__ == "__main__":
    main()
