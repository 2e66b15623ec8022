r"""The signal-to-noise ratio of the guide's gradient against K, of IWAE and of DReG, on PPCA, where q* is known."""

import argparse
import json
import time
from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from pyro_dlgm import PPCA, guides
from pyro_dlgm.objectives import IWAE, DReG

mpl.use("Agg")
from matplotlib import pyplot as plt

D, P = 5, 20


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Takes the gradient of the rows of a mean-field q of one point many times, and draws |mean| / "
        "standard deviation, averaged over the numbers of the row, against the number K of samples.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=10_000, help="gradients of each K")
    parser.add_argument("--most", type=int, default=7, help="K goes up to 2 to this power")
    parser.add_argument("--shift", type=float, default=0.3, help="of q's mean from the posterior's, in its scales")
    parser.add_argument("--widen", type=float, default=1.3, help="factor of q's scales")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/bench", help="folder for signal_to_noise.json and .png")
    return parser.parse_args()


def pair(a: argparse.Namespace) -> tuple[PPCA, guides.MeanField, Tensor]:
    r"""A PPCA, one of its points as often as there are repeats, and a row for each of them, all equal."""
    torch.manual_seed(a.seed)
    model = PPCA(D, P).double().requires_grad_(False).eval()
    model.set(torch.randn(P, D).double() / P**0.5, torch.zeros(P).double(), torch.tensor(1.0))
    x = model(size=1)
    q = model.posterior(x)
    scale = q.variance.sqrt()
    guide = guides.MeanField(a.repeats, D).double()
    row = torch.cat([q.mean + a.shift * scale, (a.widen * scale).log()], -1)
    guide.rows.overwrite(row.expand(a.repeats, -1).contiguous())
    return model, guide, x.expand(a.repeats, -1)


def ratio(objective, model, guide, x: Tensor) -> float:
    r"""|mean| / standard deviation of the gradient, averaged over the numbers of a row."""
    loss = objective.differentiable_loss(model, guide, x, torch.arange(len(x)))
    (gradient,) = torch.autograd.grad(loss, [guide.rows.weight])
    return float((gradient.mean(0).abs() / gradient.std(0)).mean())


def slope(numbers: list[int], ratios: list[float]) -> float:
    r"""The slope of log ratio against log K, from K = 8 on."""
    log_k, log_r = (torch.tensor(v, dtype=torch.float64).log() for v in (numbers[3:], ratios[3:]))
    log_k = log_k - log_k.mean()
    return float((log_k * log_r).sum() / log_k.square().sum())


def draw(numbers: list[int], found: dict[str, list[float]], floor: float, path: Path) -> None:
    r"""The figure, both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for (name, ratios), mark in zip(found.items(), "os", strict=True):
        axes.plot(numbers, ratios, mark + "-", label=f"{name}, slope {slope(numbers, ratios):+.2f}")
    axes.axhline(floor, color="grey", linestyle=":", label="what noise alone would give")
    axes.set(xscale="log", yscale="log", xlabel="K", ylabel="|mean| / standard deviation")
    axes.set_title("gradient of q's row")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    r"""Measures, prints, and writes both files."""
    a = arguments()
    numbers, folder = [2**k for k in range(a.most + 1)], Path(a.out)
    folder.mkdir(parents=True, exist_ok=True)
    model, guide, x = pair(a)
    found, start = {}, time.perf_counter()
    for kind in (IWAE, DReG):
        found[kind.__name__] = [ratio(kind(K), model, guide, x) for K in numbers]
        ratios = " ".join(f"{r:.3f}" for r in found[kind.__name__])
        print(f"{kind.__name__:<5} {ratios}  slope {slope(numbers, found[kind.__name__]):+.2f}")
    floor = (2 / torch.pi / a.repeats) ** 0.5
    draw(numbers, found, floor, folder / "signal_to_noise.png")
    said = vars(a) | {"K": numbers, "ratios": found, "floor": floor, "seconds": time.perf_counter() - start}
    (folder / "signal_to_noise.json").write_text(json.dumps(said, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
