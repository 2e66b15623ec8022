r"""Likelihood regret F(q*) − F(q) as a score of images that are not from the training set, beside −F(q) itself.

    python examples/likelihood_regret.py --data-root DIR

One convolutional model is trained on MNIST, one on Fashion-MNIST, each with an encoder. The encoder's q is wrong for
images of another kind, so that the best q of its family, found by an E-step for each image, raises F by more than it
does for test images of the same kind (Xiao, Yan, Amit, "Likelihood regret" (2020), https://arxiv.org/abs/2003.02977).
Writes likelihood_regret.json and the figure; the trainings go on where they were killed.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.stats import mannwhitneyu
from torch import Tensor

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.plots.palette import colour
from pyro_dlgm.runs.files import whole
from pyro_dlgm.seeding import forked, seeds

LATENTS, BATCH, LR, SAMPLES, BINS = 64, 100, 1e-3, 200, 40
SETS = {"MNIST": data.mnist, "Fashion-MNIST": data.fashion_mnist}
SCORES = {"negative_elbo": "−F(q), nats", "regret": "F(q*) − F(q), nats"}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains a model of MNIST and one of Fashion-MNIST, and tells test images of the other set from "
        "those of the same set by −F(q) and by likelihood regret; prints the areas under the ROC curves.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw and FashionMNIST/raw, unpacked")
    parser.add_argument("--epochs", type=int, default=10, help="passes through the training images")
    parser.add_argument("--points", type=int, default=200, help="test images of each set")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/likelihood_regret", help="folder for trainings, numbers and figure")
    return parser.parse_args()


def trained(name: str, dataset: data.Dataset, a: argparse.Namespace):
    r"""The pair of a data set, trained or as an earlier call left it."""
    with forked(a.seed):
        decoder = nets.ConvDecoder(LATENTS, dataset.image_shape)
        guide = guides.Amortized(nets.ConvEncoder(dataset.image_shape), LATENTS)
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(decoder))
    options = {"epochs": a.epochs, "batch_size": BATCH, "lr": LR, "schedule": "constant", "seed": a.seed}
    options |= {"transform": dataset.transform, "progress": True, "out": Path(a.out, name), "resume": True}
    fit(model, guide, dataset.train, **options)
    return model, guide


def scores(model, guide, x: Tensor, seed: int) -> dict[str, list[float]]:
    r"""−F(q) and the regret of each image, in nats, both F with the same number of samples."""
    climbed, drawn = seeds(2, seed)  # q* must not be scored with the numbers that chose it
    before = evaluate.elbo(model, guide, x, num_samples=SAMPLES, seed=drawn)
    best = evaluate.infer(model, guide, x, seed=climbed)
    after = evaluate.elbo(model, best, x, torch.arange(len(x)), num_samples=SAMPLES, seed=drawn)
    return {"negative_elbo": (-before).tolist(), "regret": (after - before).tolist()}


def area(inside: list[float], outside: list[float]) -> float:
    r"""The area under the ROC curve: how often an image of the other set has the higher score, ties by half."""
    return float(mannwhitneyu(outside, inside).statistic) / len(inside) / len(outside)


def picture(found: dict, path: Path) -> None:
    r"""Histograms of both scores, one row for each training set."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    for axes, (name, scored) in zip(figure.subplots(len(found), 2), found.items(), strict=True):
        for axis, (score, label) in zip(axes, SCORES.items(), strict=True):
            both = [v for values in scored["scores"].values() for v in values[score]]
            edges = torch.linspace(min(both), max(both), BINS + 1).tolist()
            for k, (of, values) in enumerate(scored["scores"].items()):
                axis.hist(values[score], bins=edges, alpha=0.6, color=colour(k), label=f"test images of {of}")
            axis.set(xlabel=label, ylabel="images", title=f"trained on {name}, AUROC {scored['auroc'][score]:.3f}")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    sets = {name: load(a.data_root) for name, load in SETS.items()}
    found = {}
    for name, dataset in sets.items():
        model, guide = trained(name, dataset, a)
        scored = {of: scores(model, guide, other.test[: a.points], a.seed) for of, other in sets.items()}
        (other,) = sets.keys() - {name}
        areas = {score: area(scored[name][score], scored[other][score]) for score in SCORES}
        found[name] = {"auroc": areas, "scores": scored}
        print(f"trained on {name}, against {other}: " + ", ".join(f"AUROC of {k} {v:.3f}" for k, v in areas.items()))
    with whole(Path(a.out, "likelihood_regret.json")) as path:
        path.write_text(json.dumps({"protocol": vars(a), "result": found}, indent=2) + "\n")
    picture(found, Path(a.out, "likelihood_regret.png"))


if __name__ == "__main__":
    main()
