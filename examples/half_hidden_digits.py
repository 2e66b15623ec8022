r"""From half of an image the other half is drawn: several digits, where several would fit.

    python examples/half_hidden_digits.py

No training image is complete: half of its pixels, at random, are hidden. Nothing is filled in for the training: given t
the pixels are independent, so that p(x_o | t) is the product over the observed ones, and the encoder gets the mask as a
second channel. Of a test image one half is hidden, upper, lower, left or right. Rows of q are fitted to what is visible
(`evaluate.infer`), and draws of the rest are weighted by p(x_o, t) / q(t | x) (`evaluate.impute`). The error of their
mean is compared with PPCA of the same pixels, which is exact and linear, and with the mean of each pixel;
`evaluate.check_imputations` says whether intervals of the draws contain the truth as often as they should. What a draw
shows is named by the nearest whole training image, which the models have not seen.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from pyro_dlgm import DLGM, PPCA, data, evaluate, fit, guides, likelihoods, nets, priors

LATENTS, HIDDEN, LR, BATCH = 10, (64, 64), 3e-3, 100
POINTS, E_STEPS, DRAWS, PROPOSALS, SHOWN = 200, 3000, 50, 2000, 12
HALVES = (
    (slice(0, 4), slice(None)),
    (slice(4, 8), slice(None)),
    (slice(None), slice(0, 4)),
    (slice(None), slice(4, 8)),
)


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains on digits with half of the pixels hidden, and draws hidden halves of others. Writes "
        "half_hidden_digits.json and half_hidden_digits.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=60, help="passes through the training points")
    parser.add_argument("--seed", type=int, default=0, help="seed of the halves, the training and the draws")
    parser.add_argument("--out", default="runs/half_hidden_digits", help="folder for the results")
    return parser.parse_args()


def halves(num: int, seed: int) -> Tensor:
    r"""Masks (num, 1, 8, 8), each with one half hidden."""
    mask = torch.ones(num, 1, 8, 8, dtype=torch.bool)
    for i, which in enumerate(torch.randint(4, (num,), generator=torch.Generator().manual_seed(seed)).tolist()):
        mask[i, 0][HALVES[which]] = False
    return mask


def pixels(shape: tuple[int, ...], seed: int) -> Tensor:
    r"""Masks of that shape, which hide half of the pixels at random."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def trained(digits: data.Dataset, mask: Tensor, a: argparse.Namespace):
    r"""The pair, trained on what the mask shows."""
    torch.manual_seed(a.seed)
    decoder = nets.MLP(LATENTS, digits.image_shape, HIDDEN, heads=2)
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.DiagonalNormal(decoder, floor=0.02))
    encoder = nets.MLP((2, 8, 8), HIDDEN[0], HIDDEN[:1])
    guide = guides.Amortized(encoder, LATENTS, "full_rank", mask_input=True)
    settings = {"epochs": a.epochs, "batch_size": BATCH, "lr": LR, "seed": a.seed}
    fit(model, guide, digits.train, mask=mask, transform=digits.transform, **settings)
    return model, guide


def number_of_digits(classify, draws: Tensor) -> Tensor:
    r"""How many different digits the draws (M, B, ...) of each image show, at least two draws each, (B,)."""
    named = torch.as_tensor(classify(draws.reshape(-1, 64).numpy())).reshape(len(draws), -1)
    counts = torch.nn.functional.one_hot(named, 10).sum(0)
    return (counts >= 2).sum(-1)


def rmse(guess: Tensor, x: Tensor, mask: Tensor) -> float:
    r"""The root mean square error of what is hidden."""
    return float((guess - x)[~mask].square().mean().sqrt())


def drawn(digits: data.Dataset, train_mask: Tensor, x: Tensor, mask: Tensor, a: argparse.Namespace) -> tuple:
    r"""Errors and coverage of the model, draws of the hidden halves, and their mean."""
    model, encoder = trained(digits, train_mask, a)
    index, settings = torch.arange(len(x)), {"mask": mask, "num_proposals": PROPOSALS, "seed": a.seed}
    q = evaluate.infer(model, encoder, x, mask=mask, max_steps=E_STEPS, seed=a.seed)
    found = evaluate.check_imputations(model, q, x, index, **settings)
    draws, mean = (evaluate.impute(model, q, x, index, DRAWS, by=by, **settings) for by in ("draws", "mean"))
    return summary(found) | {"rmse of the mean": rmse(mean, x, mask)}, draws, mean


def compared(digits: data.Dataset, a: argparse.Namespace) -> tuple[dict, dict]:
    r"""Errors, coverage and what the draws show; and the images of the picture."""
    train_mask, mask = pixels(digits.train.shape, a.seed), halves(POINTS, a.seed)
    x = digits.test[:POINTS]
    own, draws, mean = drawn(digits, train_mask, x, mask, a)
    whole = digits.seen(len(digits.train)).x
    seen = whole.masked_fill(~train_mask, torch.nan)
    ppca = PPCA.fit(seen.flatten(1), LATENTS)
    linear = evaluate.check_imputations(ppca, guides.Exact(ppca), x.flatten(1), mask=mask.flatten(1), seed=a.seed)
    classify = KNeighborsClassifier(1).fit(whole.flatten(1).numpy(), digits.train_labels.numpy()).predict
    shown = number_of_digits(classify, draws)
    results = {"DLGM": own, "PPCA": summary(linear)}
    results["mean of each pixel"] = {"rmse": rmse(seen.nanmean(0).expand_as(x), x, mask)}
    results["images by the number of digits in their draws"] = torch.bincount(shown, minlength=4).tolist()
    return results, {"visible": x.where(mask, 0.35), "mean": mean, "draws": draws, "truth": x}


def summary(found: evaluate.Imputations) -> dict:
    r"""Error, score and coverage as plain numbers."""
    covered = {f"{level:.0%}": list(pair) for level, pair in found.coverage.items()}
    return {"rmse": found.rmse, "crps": found.crps, "coverage": covered}


def picture(images: dict[str, Tensor]) -> Figure:
    r"""Visible halves, the mean and four draws of the hidden ones, and the truth."""
    rows = {"visible": images["visible"], "mean": images["mean"]}
    rows |= {f"draw {n + 1}": draw for n, draw in enumerate(images["draws"][:4])} | {"truth": images["truth"]}
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    for axis, (name, x) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        axis.imshow(torch.cat([image[0] for image in x[:SHOWN]], 1), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    digits = data.digits()
    results, images = compared(digits, a)
    protocol = f"{len(digits.train)} images, half of the pixels hidden; {POINTS} test images, one half; seed {a.seed}"
    print(protocol)
    for name, found in results.items():
        print(f"{name}: {found}")
    (out / "half_hidden_digits.json").write_text(
        json.dumps({"protocol": protocol, "results": results}, indent=2) + "\n"
    )
    picture(images).savefig(out / "half_hidden_digits.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
