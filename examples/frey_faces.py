r"""How short a code can a deep latent Gaussian model give the frames of a film? Test bits per dimension of Frey faces.

    python examples/frey_faces.py --file freyfaces.npz

1,965 frames of 28x20 pixels with 8 bits, in the order of the film. Neighbouring frames are nearly equal, and a random
split puts neighbours of the test frames among the training frames. So the headline is a split in time: the last 200
frames test, the 200 before them validate, the others train. ``--random-too`` puts a random split of the same sizes
beside it; the difference is what the neighbours give away.

16 latents, pixels by `DiscretizedLogistic` (a probability of the 8-bit values: bits need no dequantization), an
amortized mean-field q, convolutional networks; Adam 1e-3, batches of 64; the epoch with the best bound on the
validation frames is kept. Each w is scored twice: with the encoder's q, and after an E-step on the test frames that
starts there, which says how much of the loss is the encoder's.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import pyro
import torch
from torchvision.utils import save_image

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.comparison import scoring
from pyro_dlgm.comparison.evaluation import lines
from pyro_dlgm.plots.images import grid

LATENTS, BATCH, LR = 16, 64, 1e-3
NETWORK = {"widths": (32, 64, 64, 64), "norm": True}
HELD_OUT = 200  # frames that test, and as many that validate
SHOWN = 8  # frames in each row of the picture


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains a convolutional model of the Frey faces and scores it on frames that come later in the "
        "film: ELBO and IWAE in nats per frame and bits per dimension, with effective sample sizes and Pareto k-hat "
        "(above 0.7 the IWAE is not to be trusted). Writes frey_faces.json, and for each split a picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--file", required=True, help="npz file with the frames, (1965, 28, 20) bytes in time order")
    parser.add_argument("--epochs", type=int, default=600, help="passes through the training frames, at most")
    parser.add_argument("--patience", type=int, default=60, help="epochs without a better bound on validation frames")
    parser.add_argument("--samples", type=int, default=1000, help="samples of q per test frame")
    parser.add_argument("--random-too", action="store_true", help="also train and score on a random split")
    parser.add_argument("--seed", type=int, default=0, help="seed of starting values, batches, samples, random split")
    parser.add_argument("--out", default="runs/frey_faces", help="folder for the results")
    return parser.parse_args()


def new_pair(image_shape: tuple[int, ...]) -> tuple[DLGM, guides.Amortized]:
    r"""The model and its guide."""
    decoder = nets.ConvDecoder(LATENTS, image_shape, heads=2, **NETWORK)
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.DiscretizedLogistic(decoder))
    return model, guides.Amortized(nets.ConvEncoder(image_shape, **NETWORK), LATENTS)


def train_and_score(faces: data.Dataset, a: argparse.Namespace, picture: Path) -> dict:
    r"""Trains one pair on one split; its scores on the test frames, by q, and a picture of what it has learned."""
    torch.manual_seed(a.seed)
    model, guide = new_pair(faces.image_shape)
    options = {"epochs": a.epochs, "batch_size": BATCH, "lr": LR, "schedule": "constant", "seed": a.seed}
    options |= {"transform": faces.transform, "x_val": faces.val, "patience": a.patience}
    run = fit(model, guide, faces.train, progress=True, **options)
    start = time.perf_counter()
    bits = scoring.bits_per_dim(model.likelihood, faces.transform, faces.test[0].numel())
    refined = scoring.infer_silently(model, guide, faces.test, a.seed)
    result = {
        "encoder": scoring.summary([judge(model, guide, faces.test, a)], bits),
        "e-step": scoring.summary([judge(model, refined, faces.test, a)], bits),
        "unconverged": int((~refined.convergence.converged).sum()),
    }
    best = max(run.history, key=lambda record: record["val_elbo"])
    result |= {"protocol": faces.protocol, "epochs": len(run.history), "best_epoch": best["epoch"]}
    result |= {"train_elbo": best["elbo"], "val_elbo": best["val_elbo"]}
    result["seconds"] = {"fit": run.history[-1]["seconds"], "evaluate": time.perf_counter() - start}
    look(model, guide, faces.test, picture)
    return result


def judge(model: DLGM, q: guides.Guide, x: torch.Tensor, a: argparse.Namespace) -> dict[str, torch.Tensor]:
    r"""ELBO, IWAE, effective sample size and k-hat of each frame, all from the same log-weights."""
    table = evaluate.log_weights(model, q, x, torch.arange(len(x)), a.samples, seed=a.seed)
    result = {"elbo": table.mean(0), "iwae": evaluate.log_mean_exp(table)}
    return result | {"ess": evaluate.ess(table), "pareto_k": evaluate.pareto_k(table)}


@torch.no_grad()
def look(model: DLGM, guide: guides.Guide, x: torch.Tensor, path: Path) -> None:
    r"""Test frames with their reconstructions next to each other, then means of p(x | t) for t from the prior."""
    shown = x[:: max(1, len(x) // (2 * SHOWN))][: 2 * SHOWN]
    pairs = torch.stack([shown, evaluate.reconstruct(model, guide, shown)], 1).flatten(0, 1)
    samples = model.likelihood(model.prior().sample((len(pairs),))).mean
    save_image(grid(1 - torch.cat([pairs, samples]), zoom=2), path)


def machine() -> dict:
    r"""What it ran on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()} | versions


def main() -> None:
    a = arguments()
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    for name, seed in {"time": None, "random": a.seed}.items() if a.random_too else {"time": None}.items():
        faces = data.arrays(a.file, num_val=HELD_OUT, num_test=HELD_OUT, seed=seed, transform=data.Grid(256))
        results[name] = train_and_score(faces, a, out / f"frey_faces_{name}.png")
        print(f"\n{name} split: {faces.protocol}; epoch {results[name]['best_epoch']}")
        for q in ("encoder", "e-step"):
            print("\n".join(lines({q: results[name][q] | {"num_samples": a.samples}})), flush=True)
    record = {"machine": machine(), "arguments": vars(a), "results": results}
    (out / "frey_faces.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nWritten: {out / 'frey_faces.json'}, and a picture of each split")


if __name__ == "__main__":
    main()
