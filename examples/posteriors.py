r"""One model, one x, five q: what each guide makes of the same posterior.

    python examples/posteriors.py

A convolutional model of the digits with two latents, so that the posterior p(t | x, w) can be drawn, and its evidence
computed by quadrature. Each guide makes its E-step at this w; the number is its gap log p(x) - F(q) in nats.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from pyro_dlgm import DLGM, Points, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.plots.gaps import posterior_on_grid
from pyro_dlgm.seeding import forked

D, WIDTHS = 2, (16, 32)
STATES, VISITS = 100, 20  # of the chain of a point, and its E-steps
SHARES = (0.9, 0.5)  # of q's mass, inside of the curves
INK, POSTERIOR = "#c2185b", "Blues"


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Draws the exact posterior of digits and the q of five guides.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=60, help="passes through the training images")
    parser.add_argument("--points", type=int, nargs="+", default=[2, 6, 7], help="which test points")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", type=Path, default=Path("runs/posteriors.png"), help="the picture")
    return parser.parse_args()


def trained(digits: data.Dataset, a: argparse.Namespace):
    r"""A model of the digits and its encoder."""
    with forked(a.seed):
        model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.ConvDecoder(D, (1, 8, 8), widths=WIDTHS)))
        guide = guides.Amortized(nets.ConvEncoder((1, 8, 8), widths=WIDTHS), D)
    fit(model, guide, digits.train, transform=digits.transform, epochs=a.epochs, lr=3e-3, seed=a.seed)
    return model, guide


def fitted(model, encoder, x, seed: int) -> dict[str, guides.Guide]:
    r"""The guides by name, each after its E-step on x."""
    N = len(x)
    with forked(seed):
        rows = {
            "hard EM": guides.PointEstimate(N, D),
            "mean-field": guides.MeanField(N, D),
            "full-rank": guides.FullRank(N, D),
        }
        qs = {name: evaluate.infer(model, guide, x) for name, guide in rows.items()}
        chain = guides.Chain(model, N, D, num_states=STATES)
        for _ in range(VISITS):
            chain.e_step(Points(x, torch.arange(N)))
    return {**qs, "amortized": encoder, "Monte Carlo EM": chain}


def level(density: torch.Tensor, share: float) -> float:
    r"""The height above which a density on a grid has that share of its mass."""
    heights = density.flatten().sort(descending=True).values
    return float(heights[(heights.cumsum(0) < share * heights.sum()).sum()])


def grid(corners: torch.Tensor, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""The two coordinates of a square grid, each (n, n)."""
    return torch.meshgrid(*(torch.linspace(float(a), float(b), cells) for a, b in corners), indexing="ij")


def draw_q(axis, guide: guides.Guide, x: torch.Tensor, i: int, t: tuple[torch.Tensor, torch.Tensor]) -> None:
    r"""Draws q(t | x_i): a cross, dots, or curves that hold shares of its mass."""
    index = torch.tensor([i])
    if isinstance(guide, guides.PointEstimate):
        axis.plot(*guide.posterior(x[index], index).mean[0].numpy(), "x", color=INK, markersize=9, markeredgewidth=2.2)
    elif isinstance(guide, guides.Chain):
        axis.scatter(*guide.states[i].T.numpy(), s=7, color=INK, linewidths=0)
    else:
        q = guide.posterior(x[index], index)
        density = torch.stack([q.log_prob(row.unsqueeze(1)).squeeze(1) for row in torch.stack(t, -1)]).exp()
        axis.contour(
            *(c.numpy() for c in t),
            density.numpy(),
            [level(density, share) for share in SHARES],
            colors=INK,
            linewidths=1.5,
        )


def drawn(model, qs: dict[str, guides.Guide], x: torch.Tensor, seed: int) -> Figure:
    r"""A row for each point: the image, then its posterior with each q over it."""
    log_px = evaluate.quadrature(model, x)
    index = torch.arange(len(x))
    figure = Figure(figsize=(1.7 * (1 + len(qs)), 1.72 * len(x) + 0.3), layout="constrained")
    axes = figure.subplots(len(x), 1 + len(qs), squeeze=False)
    for i, (image, *others) in enumerate(axes):
        image.imshow(x[i, 0].numpy(), cmap="gray_r")
        corners, p = posterior_on_grid(model, x[i : i + 1])
        t = grid(corners, len(p))
        for axis, (name, guide) in zip(others, qs.items(), strict=True):
            axis.contourf(*(c.numpy() for c in t), p.numpy(), 12, cmap=POSTERIOR)
            draw_q(axis, guide, x, i, t)
            axis.set(xlim=corners[0].tolist(), ylim=corners[1].tolist())
            if i == 0:
                axis.set_title(name, fontsize=11)
            if guide.has_density:
                F = evaluate.elbo(model, guide, x, index, 2000, seed=seed)
                axis.annotate(
                    f"{log_px[i] - F[i]:.2f} nats", (0.03, 0.04), xycoords="axes fraction", fontsize=9, color="0.15"
                )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("0.75")
    axes[0, 0].set_title("x", fontsize=11)
    return figure


def main() -> None:
    r"""Trains, makes the E-steps, and draws."""
    a = arguments()
    digits = data.digits()
    model, encoder = trained(digits, a)
    x = digits.test[a.points]
    with torch.no_grad():
        qs = fitted(model, encoder, x, a.seed)
        figure = drawn(model, qs, x, a.seed)
    a.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(a.out, dpi=110)
    print(f"Written: {a.out}")


if __name__ == "__main__":
    main()
