r"""Do the pixels left over vary together? CIFAR-10 with Σ(t) = diag σ²(t), and with Σ(t) = diag σ²(t) + F(t) F(t)ᵀ.

    python examples/cifar_covariances.py --file cifar10_train_first4000.npz

Two models with the same convolutional networks, but for the last layer, which has R more images to paint for the
columns of F; both start at the same seed and see the same batches. The first 4,000 training images of CIFAR-10: 3,000
train, the next 500 validate, the last 500 test, in the order of the file. So few images are no CIFAR-10 benchmark: the
table compares its two rows, with the difference paired over test images.

64 latents, 8-bit values dequantized afresh at each access, an amortized mean-field q; Adam 1e-3, batches of 64; the
epoch with the best bound on the validation images is kept.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import pyro
import torch
from rich.progress import track
from torchvision.utils import save_image

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.comparison import scoring
from pyro_dlgm.comparison.evaluation import lines
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.plots.images import grid

LATENTS, BATCH, LR, CLIP = 64, 64, 1e-3, 100.0
NETWORK = {"widths": (32, 64, 64), "norm": True}
VALIDATION, TEST = 500, 500
SHOWN = 8  # images in each row of the pictures


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains two models of 4,000 CIFAR-10 images that differ in the covariance of the pixels given t, "
        "and scores both: ELBO and IWAE in nats per image and bits per dimension, with effective sample sizes and "
        "Pareto k-hat (above 0.7 the IWAE is not to be trusted). Writes cifar_covariances.json, and for each model a "
        "picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--file", required=True, help="npz file with images (N, 32, 32, 3), bytes")
    parser.add_argument("--rank", type=int, default=8, help="the number R of columns of F")
    parser.add_argument("--epochs", type=int, default=100, help="passes through the training images, at most")
    parser.add_argument("--patience", type=int, default=15, help="epochs without a better bound on validation images")
    parser.add_argument("--samples", type=int, default=1000, help="samples of q per test image")
    parser.add_argument("--seed", type=int, default=0, help="seed of starting values, batches and samples")
    parser.add_argument("--out", default="runs/cifar_covariances", help="folder for the results")
    return parser.parse_args()


def new_pair(image_shape: tuple[int, ...], rank: int) -> tuple[DLGM, guides.Amortized]:
    r"""The model, with independent pixels given t if the rank is 0, and its guide."""
    decoder = nets.ConvDecoder(LATENTS, image_shape, heads=2 + rank, **NETWORK)
    likelihood = likelihoods.LowRankNormal(decoder, rank) if rank else likelihoods.DiagonalNormal(decoder)
    guide = guides.Amortized(nets.ConvEncoder(image_shape, **NETWORK), LATENTS)
    return DLGM(priors.StandardNormal(LATENTS), likelihood), guide


def train_and_score(images: data.Dataset, rank: int, a: argparse.Namespace, picture: Path) -> tuple[dict, torch.Tensor]:
    r"""Trains one model; its scores, and the ELBO of each test image."""
    torch.manual_seed(a.seed)
    model, guide = new_pair(images.image_shape, rank)
    options = {"epochs": a.epochs, "batch_size": BATCH, "lr": LR, "clip_norm": CLIP, "schedule": "constant"}
    options |= {"seed": a.seed, "transform": images.transform, "x_val": images.val, "patience": a.patience}
    run = fit(model, guide, images.train, progress=True, **options)
    start, parts = time.perf_counter(), images.test.split(50)
    work = track(scoring.block_scores(model, guide, parts, a.samples, a.seed), f"IWAE-{a.samples}", len(parts))
    tables = list(work)
    bits = scoring.bits_per_dim(model.likelihood, images.transform, images.test[0].numel())
    best = max(run.history, key=lambda record: record["val_elbo"])
    result = scoring.summary(tables, bits) | {"epochs": len(run.history), "best_epoch": best["epoch"]}
    result |= {"train_elbo": best["elbo"], "val_elbo": best["val_elbo"]}
    result["parameters"] = sum(p.numel() for p in [*model.parameters(), *guide.parameters()])
    result["seconds"] = {"fit": run.history[-1]["seconds"], "evaluate": time.perf_counter() - start}
    result["history"] = [{name: record[name] for name in ("epoch", "elbo", "val_elbo")} for record in run.history]
    look(model, guide, images.test, picture)
    return result, torch.cat([part["elbo"] for part in tables])


@torch.no_grad()
def look(model: DLGM, guide: guides.Guide, x: torch.Tensor, path: Path) -> None:
    r"""Test images with their reconstructions next to each other; means of p(x | t) with draws of x next to them."""
    shown = x[: 2 * SHOWN]
    pairs = torch.stack([shown, evaluate.reconstruct(model, guide, shown)], 1).flatten(0, 1)
    p = model.likelihood(model.prior().sample((2 * SHOWN,)))
    save_image(grid(torch.cat([pairs, torch.stack([p.mean, p.sample()], 1).flatten(0, 1)]), zoom=2), path)


def machine() -> dict:
    r"""What it ran on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()} | versions


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    split = {"num_val": VALIDATION, "num_test": TEST, "seed": None}
    images = data.arrays(a.file, "images", layout="NHWC", transform=data.Dequantize(256), **split)
    print(images.protocol)
    results, elbos = {}, []
    for name, rank in {"diagonal": 0, "low-rank": a.rank}.items():
        results[name], elbo = train_and_score(images, rank, a, out / f"cifar_{name}.png")
        elbos.append(elbo.double())
        print(f"\n{name}, rank {rank}: epoch {results[name]['best_epoch']} of {results[name]['epochs']}")
        print("\n".join(lines({name: results[name] | {"num_samples": a.samples}})), flush=True)
    gain = elbos[1] - elbos[0]
    difference = Mean.of(gain)._asdict()
    print(f"\nELBO, low-rank − diagonal: {difference['mean']:.2f} ± {difference['standard_error']:.2f} nats per image")
    record = {"machine": machine(), "arguments": vars(a), "protocol": images.protocol}
    record |= {"results": results, "elbo_difference": difference}
    (out / "cifar_covariances.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"Written: {out / 'cifar_covariances.json'}, and a picture of each model")


if __name__ == "__main__":
    main()
