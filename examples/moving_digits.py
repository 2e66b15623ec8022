r"""Can a chain of latents inside each point say what comes next? A state-space model of films with deep emissions.

    python examples/moving_digits.py

A point is a film of 14 frames: a digit that moves over a canvas of 12x12 and bounces off its sides. What moves is c,
where it is are the states z_k:

    p(c) p(z_0) ∏_k p(z_k | z_{k−1}) p(x_k | z_k, c),    z_k ~ N(z_{k−1} + f(z_{k−1}), s²),

and a frame is emitted by the likelihood of a DLGM. The 15 latent sites of a film lie in one plate over films, and are
one vector for `AutoAmortized`, which draws all of it from a network of the film and of its mask. Half of the training
films are cut short: frames that are not there are masked, so that `evaluate.impute` is a forecast. Test films are those
of other digits, cut after 8 frames. The forecast to beat repeats the last image; the mean of all training frames is
that of a model that knows neither digit nor place.
"""

import argparse
import json
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_dlgm import DLGM, Points, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.plots.images import draw_strips

FRAMES, SEEN, SIDE, NOISE = 14, 8, 12, 0.05  # at frame 15 all is as in frame 7
STATES, THINGS, HIDDEN, BATCH, LR = 6, 8, 128, 100, 3e-3
SHOWN = 3  # test films in the picture


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains a state-space model on films of moving digits and forecasts what follows in others: mean "
        "square errors per pixel. Writes moving_digits.json and moving_digits.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=60, help="passes through the training films")
    parser.add_argument("--films", type=int, default=2400, help="training films")
    parser.add_argument("--seed", type=int, default=0, help="seed of films, starting values, batches and samples")
    parser.add_argument("--out", default="runs/moving_digits", help="folder for the results")
    return parser.parse_args()


class Film(PyroModule):
    r"""Creates the state-space model of films x (B, 14, 1, 12, 12)."""

    def __init__(self):
        super().__init__()
        decoder = nets.MLP(STATES + THINGS, (1, SIDE, SIDE), (HIDDEN,))
        self.frame = DLGM(priors.StandardNormal(STATES), likelihoods.FixedNormal(decoder, 0.3))
        self.f, self.log_s = nets.MLP(STATES, STATES, (64,)), nn.Parameter(torch.tensor(-2.0))

    def states(self) -> Tensor:
        r"""Samples z_0, ..., z_13 from left to right: (..., B, 14, D)."""
        z = [pyro.sample("z_0", self.frame.prior())]
        for k in range(1, FRAMES):
            moved = dist.Normal(z[-1] + self.f(z[-1]), self.log_s.exp())
            z.append(pyro.sample(f"z_{k}", moved.to_event(1)))
        return torch.stack(z, -2)

    def forward(self, x=None, index=None, *, mask=None, size=None):
        with pyro.plate("films", size or len(x), subsample=index if size else None):
            c = pyro.sample("c", dist.Normal(self.log_s.new_zeros(THINGS), 1.0).to_event(1))
            z = self.states()
            frames = self.frame.likelihood(z, mask, given=c.unsqueeze(-2))
            return pyro.sample("x", frames.to_event(1), obs=x)


class Encoder(nn.Module):
    r"""Creates features (B, H) of films from (x·m, m), of which it takes one number of m for each frame."""

    out_features = 2 * HIDDEN

    def __init__(self):
        super().__init__()
        self.net = nets.MLP(FRAMES * SIDE**2 + FRAMES, self.out_features, (HIDDEN,))

    def forward(self, both: Tensor) -> Tensor:
        x, m = both.split(FRAMES, 1)
        return self.net(torch.cat([x.flatten(1), m[:, :, 0, 0, 0]], 1)).relu()


def films(digits: Tensor, num: int, seed: int) -> Tensor:
    r"""Films (num, 14, 1, 12, 12) of digits (n, 1, 8, 8) in turn, each with a start and a direction of the seed."""
    random = torch.Generator().manual_seed(seed)
    reach = SIDE - 8
    start = torch.randint(0, 2 * reach, (num, 2), generator=random)  # of a triangle wave: place and direction
    steps = (start.unsqueeze(1) + torch.arange(FRAMES).view(1, -1, 1)) % (2 * reach)
    places = reach - (steps - reach).abs()  # (num, 14, 2)
    x = NOISE * torch.randn(num, FRAMES, 1, SIDE, SIDE, generator=random)
    for film in range(num):
        for frame, (i, j) in enumerate(places[film].tolist()):
            x[film, frame, :, i : i + 8, j : j + 8] += digits[film % len(digits)]
    return x


def until(x: Tensor, frames: Tensor) -> Tensor:
    r"""The mask of films of which the first frames are seen, ``frames`` (B,) of each."""
    seen = torch.arange(FRAMES) < frames.unsqueeze(1)
    return seen.view(len(x), FRAMES, 1, 1, 1).expand_as(x)


def train(x: Tensor, a: argparse.Namespace):
    r"""The program and its encoder, fitted to films of which every second one is cut after 4 to 12 frames."""
    frames = torch.randint(4, 13, (len(x),), generator=torch.Generator().manual_seed(a.seed))
    mask = until(x, torch.where(torch.arange(len(x)) % 2 == 0, frames, FRAMES))
    torch.manual_seed(a.seed)
    program = Film()
    guide = guides.AutoAmortized(program, Encoder(), plate="films", mask_input=True, init_scale=0.3)
    run = fit(
        program, guide, Points(x, mask=mask), epochs=a.epochs, batch_size=BATCH, lr=LR, seed=a.seed, clip_norm=100
    )
    print(f"{run.history[-1]['elbo']:.1f} nats per training film, {run.history[-1]['seconds']:.0f} s")
    return program, guide


def errors(x: Tensor, forecasts: dict[str, Tensor]) -> dict[str, list[float]]:
    r"""The mean square error per pixel of each frame that was not seen."""
    square = {name: (made - x)[:, SEEN:].square() for name, made in forecasts.items()}
    return {name: each.mean((0, 2, 3, 4)).tolist() for name, each in square.items()}


def picture(x: Tensor, forecasts: dict[str, Tensor], found: dict[str, list[float]]) -> Figure:
    r"""Films, what is forecast of them, and the errors over time."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2, 1))
    strips = []
    for film in range(SHOWN):
        strips += [(f"film {film}", x[film])] + [(name, made[film]) for name, made in list(forecasts.items())[:2]]
    draw_strips(left, strips)
    axis = right.subplots()
    for name, values in found.items():
        axis.plot(range(SEEN, FRAMES), values, ".-", label=name)
    axis.set(xlabel="frame", ylabel="mean square error per pixel", ylim=(0, None))
    axis.legend(fontsize=8)
    return figure


def main() -> None:
    a = arguments()
    out, digits = Path(a.out), data.digits()
    out.mkdir(parents=True, exist_ok=True)
    x = films(digits.train / 16, a.films, a.seed)
    test = films((digits.test * 17 - 0.5).round() / 16, len(digits.test), a.seed + 1)
    pair = train(x, a)
    mask = until(test, torch.full((len(test),), SEEN))
    forecasts = {
        "forecast": evaluate.impute(*pair, test, mask=mask, seed=a.seed),
        "last image": torch.where(mask, test, test[:, SEEN - 1 : SEEN]),
        "mean image": x.mean((0, 1)).expand_as(test),
    }
    found = errors(test, forecasts)
    for name, values in found.items():
        print(
            f"{name:10} mean square error {sum(values) / len(values):.4f}, first {values[0]:.4f}, last {values[-1]:.4f}"
        )
    counts = f"{len(x)} training films, {len(test)} test films of other digits, {SEEN} of {FRAMES} frames seen"
    protocol = f"{counts}, seed {a.seed}"
    print(f"{protocol}; noise alone {NOISE**2:.4f}")
    (out / "moving_digits.json").write_text(json.dumps({"protocol": protocol, "errors": found}, indent=2) + "\n")
    picture(test, forecasts, found).savefig(out / "moving_digits.png", dpi=110)


if __name__ == "__main__":
    main()
