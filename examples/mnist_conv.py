r"""A convolutional model of MNIST, trained and judged with one command: −ELBO and IWAE-1000 on all test images.

    python examples/mnist_conv.py --data-root DIR

64 latents, Bernoulli pixels, training images binarized afresh at each access, an amortized mean-field q; Adam 1e-3,
batches of 100, 10 epochs: the budget of Thin et al., "Monte Carlo variational auto-encoders" (2021), Table 1, whose
VAE, with maps of 16-32-64-64, has −ELBO 95.26 after 10 epochs. Their NLL is a short AIS, ours is
IWAE-1000: the two are not the same estimator.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import torch
from rich.progress import track
from torch import Tensor

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors

LATENTS, BATCH, LR, EVALUATION_BATCH = 64, 100, 1e-3, 100
NETWORK = {"widths": (32, 64, 64, 64), "norm": True}  # GroupNorm: no point sees its batch
QUANTILES = (0.05, 0.5, 0.95)


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains a convolutional model of MNIST with an amortized guide, then reports −ELBO and IWAE on the "
        "test images, in nats per image (lower is better), with effective sample sizes and Pareto k-hat, which say "
        "how far to trust them (k-hat above 0.7: not at all). Writes mnist_conv.json, and mnist_conv.png with test "
        "images, their reconstructions, and samples.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw, unpacked")
    parser.add_argument("--download", action="store_true", help="let torchvision unpack or fetch what is not there")
    parser.add_argument("--epochs", type=int, default=10, help="passes through the 60,000 training images")
    parser.add_argument("--samples", type=int, default=1000, help="samples of q per test image")
    parser.add_argument("--test-images", type=int, default=10_000, help="how many test images to judge on")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of starting values, batches and samples")
    parser.add_argument("--out", default="runs/mnist_conv", help="folder for the results")
    return parser.parse_args()


def new_pair(image_shape: tuple[int, ...]) -> tuple[DLGM, guides.Amortized]:
    r"""The model and its guide."""
    decoder = nets.ConvDecoder(LATENTS, image_shape, **NETWORK)
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(decoder))
    return model, guides.Amortized(nets.ConvEncoder(image_shape, **NETWORK), LATENTS)


def judge(model: DLGM, guide: guides.Guide, x: Tensor, samples: int, seed: int) -> dict[str, Tensor]:
    r"""ELBO, IWAE, effective sample size and k-hat of each test image, all from the same log-weights."""
    parts = []
    batches = list(enumerate(x.split(EVALUATION_BATCH)))
    for number, batch in track(batches, description=f"IWAE-{samples} on {len(x):,} test images"):
        log_w = evaluate.log_weights(model, guide, batch, num_samples=samples, seed=seed + number)
        part = {"elbo": log_w.mean(0), "iwae": evaluate.log_mean_exp(log_w), "ess": evaluate.ess(log_w)}
        parts.append(part | ({"pareto_k": evaluate.pareto_k(log_w)} if samples >= 25 else {}))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def summary(values: dict[str, Tensor]) -> dict:
    r"""Means with standard errors over test images, in nats per image, and quantiles of the diagnostics."""
    result = {}
    for name, sign in (("elbo", "negative_elbo"), ("iwae", "nll_iwae")):
        result[sign] = -float(values[name].mean())
        result[f"{sign}_stderr"] = float(values[name].std() / len(values[name]) ** 0.5)
    for name in ("ess", "pareto_k"):
        if name in values:
            result[name] = {str(q): float(values[name].quantile(q)) for q in QUANTILES}
    return result


def picture(model: DLGM, guide: guides.Guide, x: Tensor, path: Path) -> None:
    r"""Three rows: test images, their reconstructions, samples of the model."""
    with torch.no_grad():
        t = model.prior().sample((len(x),))
        rows = {"test": x, "reconstruction": evaluate.reconstruct(model, guide, x), "sample": model.likelihood(t).mean}
    figure, axes = plt.subplots(3, len(x), figsize=(len(x), 3.2), squeeze=False)
    for row, (name, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(path, dpi=150)


def machine() -> dict:
    r"""What it ran on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()} | versions


def main() -> None:
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    mnist = data.mnist(a.data_root, download=a.download)
    model, guide = new_pair(mnist.image_shape)
    options = {"epochs": a.epochs, "batch_size": BATCH, "lr": LR, "schedule": "constant", "seed": a.seed}
    options["transform"] = mnist.transform
    run = fit(model, guide, mnist.train, progress=True, **options)
    start = time.perf_counter()
    result = summary(judge(model, guide, mnist.test[: a.test_images], a.samples, a.seed))
    result["parameters"] = sum(p.numel() for p in [*model.parameters(), *guide.parameters()])
    result["seconds"] = {"fit": run.history[-1]["seconds"], "evaluate": time.perf_counter() - start}
    picture(model, guide, mnist.test[:10], out / "mnist_conv.png")
    record = {"machine": machine(), "protocol": vars(a), "result": result, "history": run.history}
    (out / "mnist_conv.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
