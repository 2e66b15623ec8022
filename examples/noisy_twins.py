r"""What does a picture say of another one of the same thing? Two modalities of one latent, either may be missing.

    python examples/noisy_twins.py

A digit has an image and a twin, the image turned by a right angle under noise of σ = 0.3. One latent t makes both:

    p(x₁, x₂) = ∫ p(t) p(x₁ | t) p(x₂ | t) dt,    q(t | x·m, m), with the mask m.

Of 1,200 training points a quarter has both; the others have one of them, and the mask says which. Missing ones are
marginalized, so that all points train, and one encoder, which sees the mask, gives q for whatever is there. Across:
an image from its twin, a twin from its image, on test points, against ridge regression on the complete points, the mean
image, and the same model trained on the complete points alone. log p(x₁ | x₂) = log p(x₁, x₂) − log p(x₂) says how much
the model knows, each by annealing from q.
"""

import argparse
import json
from pathlib import Path

import pyro
import torch
from matplotlib.figure import Figure
from pyro.nn import PyroModule
from sklearn.linear_model import RidgeCV
from torch import Tensor

from pyro_dlgm import DLGM, Points, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.plots.images import draw_strips

SHAPE, LATENTS, HIDDEN, SIGMA = (1, 8, 8), 16, 128, 0.3
COMPLETE, BATCH, LR = 0.25, 100, 3e-3
ANNEALED = {"num_chains": 4, "num_temperatures": 100, "num_leapfrog": 5}
NAMES = ("image", "twin")
SHOWN = 12  # test points in the picture


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains one latent for a digit and its noisy, turned twin, mostly with one of them missing, and "
        "makes each from the other: root mean square errors. Writes noisy_twins.json and noisy_twins.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=150, help="passes through the training points")
    parser.add_argument("--annealed", type=int, default=50, help="test points whose log p is annealed, the first ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of noise, masks, starting values and samples")
    parser.add_argument("--out", default="runs/noisy_twins", help="folder for the results")
    return parser.parse_args()


class Twins(PyroModule):
    r"""Creates p(t) p(x₁ | t) p(x₂ | t) from two models that share t; x is (B, 2, 8, 8), and the mask as well."""

    def __init__(self):
        super().__init__()
        self.prior = priors.StandardNormal(LATENTS)
        self.image, self.twin = (self._part(name) for name in NAMES)

    def _part(self, name: str) -> DLGM:
        likelihood = likelihoods.FixedNormal(nets.MLP(LATENTS, SHAPE, (HIDDEN,)), SIGMA)
        return DLGM(self.prior, likelihood, observed=name)

    def forward(self, x, index=None, *, mask=None, size=None):
        mask = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
        with pyro.plate("data", size or len(x), subsample=index if size else None):
            t = pyro.sample("t", self.prior())
            self.image.datum(x[:, :1], mask[:, :1], t=t)
            self.twin.datum(x[:, 1:], mask[:, 1:], t=t)


def twins(raw: Tensor, seed: int) -> Tensor:
    r"""Images, dequantized once, with their twins: (B, 2, 8, 8)."""
    noise = torch.Generator().manual_seed(seed)
    image = (raw + torch.rand(raw.shape, generator=noise)) / 17
    return torch.cat([image, image.rot90(1, (2, 3)) + SIGMA * torch.randn(raw.shape, generator=noise)], 1)


def only(x: Tensor, there: int) -> Tensor:
    r"""The mask of points of which one modality is there."""
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, there] = True
    return mask


def masks(x: Tensor, seed: int) -> Tensor:
    r"""The mask of training points: the first quarter, in an order of the seed, is complete, the others are halved."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    rest, mask = order[int(COMPLETE * len(x)) :], torch.ones_like(x, dtype=torch.bool)
    mask[rest[::2], 0], mask[rest[1::2], 1] = False, False
    return mask


def train(points: Points, a: argparse.Namespace) -> tuple[Twins, guides.AutoAmortized]:
    r"""The program and its encoder, fitted to the points: as many steps for few points as for many."""
    torch.manual_seed(a.seed)
    program = Twins()
    encoder = nets.MLP((4, 8, 8), HIDDEN, (HIDDEN,))  # x·m and m
    guide = guides.AutoAmortized(program, encoder, plate="data", mask_input=True)
    fit(program, guide, points, steps=a.epochs * 12, batch_size=BATCH, lr=LR, seed=a.seed)
    return program, guide


@torch.no_grad()
def across(pair, x: Tensor, there: int, num: int = 100) -> Tensor:
    r"""The other modality, (B, 1, 8, 8): the mean of p(it | t) over samples of q given the one that is there."""
    program, guide = pair
    t = guide.posterior(x, mask=only(x, there)).rsample((num,))
    return getattr(program, NAMES[1 - there]).likelihood(t).mean.mean(0)


def regression(x: Tensor, mask: Tensor, x_test: Tensor, there: int) -> Tensor:
    r"""The other modality by ridge regression on the complete points, its penalty by cross-validation."""
    both = x[mask.flatten(1).all(1)].flatten(2)
    fitted = RidgeCV(alphas=(0.1, 1.0, 10.0, 100.0)).fit(both[:, there].numpy(), both[:, 1 - there].numpy())
    return torch.as_tensor(fitted.predict(x_test[:, there].flatten(1).numpy())).reshape(-1, *SHAPE)


def conditional(pair, x: Tensor, there: int, a: argparse.Namespace) -> Mean:
    r"""log p(one | the other) in nats per point, the difference of two annealed estimates."""
    x = x[: a.annealed]
    log_px = lambda mask: evaluate.ais(*pair, x, mask=mask, seed=a.seed, **ANNEALED).log_px  # noqa: E731
    return Mean.of(log_px(torch.ones_like(x, dtype=torch.bool)) - log_px(only(x, there)))


def picture(x: Tensor, guesses: list[Tensor]) -> Figure:
    r"""Images with their twins, and each as the other one says it is."""
    rows = [*x[:SHOWN].split(1, 1), *(guess[:SHOWN] for guess in guesses)]
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    draw_strips(figure, list(zip(("image", "its twin", "image from twin", "twin from image"), rows, strict=True)))
    return figure


def main() -> None:
    a = arguments()
    out, digits = Path(a.out), data.digits()
    out.mkdir(parents=True, exist_ok=True)
    x, x_test = twins(digits.train, a.seed), twins(digits.test * 17 - 0.5, a.seed + 1)
    mask = masks(x, a.seed)
    complete = x[mask.flatten(1).all(1)]
    all_points, few = train(Points(x, mask=mask), a), train(Points(complete, mask=torch.ones_like(complete) > 0), a)
    results, guesses = {}, []
    for there in (1, 0):
        truth, seen = x_test[:, [1 - there]], mask[:, 1 - there].flatten(1).all(1)
        made = {"all points": across(all_points, x_test, there), "complete points": across(few, x_test, there)}
        made["ridge regression"] = regression(x, mask, x_test, there)
        made["mean"] = x[seen][:, [1 - there]].mean(0).expand_as(truth)
        name = f"{NAMES[1 - there]} from {NAMES[there]}"
        results[name] = {key: float((guess - truth).square().mean().sqrt()) for key, guess in made.items()}
        print(f"{name}: root mean square error " + ", ".join(f"{k} {v:.4f}" for k, v in results[name].items()))
        for key, pair in {"all points": all_points, "complete points": few}.items():
            found = conditional(pair, x_test, there, a)
            results[name][f"log p, {key}"] = found._asdict()
            print(f"  trained on {key}: log p = {found.mean:.2f} ± {found.standard_error:.2f} nats per test point")
        guesses.append(made["all points"])
    protocol = f"{len(x)} training points, {len(complete)} complete, {len(x_test)} test points, seed {a.seed}"
    print(protocol)
    (out / "noisy_twins.json").write_text(json.dumps({"protocol": protocol, "results": results}, indent=2) + "\n")
    picture(x_test, guesses).savefig(out / "noisy_twins.png", dpi=110)


if __name__ == "__main__":
    main()
