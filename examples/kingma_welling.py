r"""Monte Carlo EM against amortized inference: Figure 3 of Kingma and Welling (2014) again, with log p(x) exact.

    python examples/kingma_welling.py --data-root DIR

One decoder with 3 latents and 100 hidden units, on 1,000 and on 50,000 images of MNIST, trained by four ways to get at
q. With 3 latents log p(x | w) needs no estimator: it is a quadrature. So the figure shows what each way makes of w on
images it has seen and on images it has not, over training samples and over gradient evaluations of log p(x, t | w),
the price that all ways have in common. Images are binarized once: a row, or a chain, belongs to one image.
"""

import argparse
import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullFormatter
from torch import Tensor, nn

from pyro_dlgm import DLGM, data, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.optim.svi import SVI, adam
from pyro_dlgm.plots.palette import colour
from pyro_dlgm.runs.files import whole
from pyro_dlgm.seeding import forked
from pyro_dlgm.training.loop import Training

LATENTS, HIDDEN, SHAPE, BATCH = 3, 100, (1, 28, 28), 100
TRIAL, ROW_LR = 3e5, 1e-1  # gradient evaluations after which the rate of w is chosen; the rate of rows
HMC = {"num_states": 1, "num_transitions": 1, "num_leapfrog": 10, "target_acceptance": 0.9}  # as in the paper
GUIDES = {
    "amortized": lambda model, N: encoder(),
    "mcem": lambda model, N: guides.Chain(model, N, LATENTS, burn_in=0, **HMC),
    "mcem-encoder": lambda model, N: guides.Hybrid(model, encoder(), **HMC),
    "mean-field": lambda model, N: guides.MeanField(N, LATENTS),
}
TITLES = {
    "amortized": "amortized",
    "mcem": "Monte Carlo EM",
    "mcem-encoder": "Monte Carlo EM from the encoder",
    "mean-field": "variational EM, a q for each point",
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains one small model of MNIST with an encoder, with chains of HMC, with chains from an encoder "
        "and with a q for each point, and integrates log p(x) of training and test images. Writes kingma_welling.json "
        "and .png; what is there already is left out, and a training goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw, unpacked")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 50_000], help="numbers N of training images")
    parser.add_argument("--guides", nargs="+", choices=list(GUIDES), default=list(GUIDES), help="which ways")
    parser.add_argument(
        "--gradients", type=float, nargs="+", default=[3e5, 1e6, 3e6, 1e7], help="gradient evaluations at which to look"
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2], help="learning rates of w to choose from"
    )
    parser.add_argument("--points", type=int, default=1000, help="training and test images to look at, the first ones")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/kingma_welling", help="folder for results, figure and checkpoints")
    return parser.parse_args()


def encoder() -> guides.Amortized:
    r"""q(t | x) with as many hidden units as the decoder."""
    pixels = torch.Size(SHAPE).numel()
    return guides.Amortized(nn.Sequential(nn.Flatten(), nn.Linear(pixels, HIDDEN), nn.Tanh()), LATENTS)


def start(name: str, x: Tensor, lr: float) -> Training:
    r"""The training of that name on x, at its beginning."""
    decoder = nets.MLP(LATENTS, SHAPE, hidden=(HIDDEN,), activation=nn.Tanh)
    model = DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(decoder))
    guide = GUIDES[name](model, len(x))
    svi = SVI(model, guide, adam(model, guide, lr=lr, row_lr=ROW_LR), check_every=1)
    return Training(svi, Batches(x, BATCH), total=10**9)


def train(training: Training, gradients: float) -> None:
    r"""Trains until so many gradients have been evaluated."""
    for _ in training:
        if training.gradients >= gradients:
            return


def rate(name: str, x: Tensor, rates: list[float], seed: int) -> float:
    r"""The learning rate of w that is best in the beginning and on training images, as the paper chose its own."""
    if len(rates) == 1:
        return rates[0]
    scores = {}
    for lr in rates:
        with forked(seed):
            training = start(name, x, lr)
            train(training, TRIAL)
        scores[lr] = float(evaluate.quadrature(training.svi.model, x[:BATCH], tol=0.1).mean())
    return max(scores, key=scores.get)


def looked(training: Training, sets: dict[str, Tensor], seed: int) -> dict:
    r"""What w is worth on the images of each set, and q, where there is an encoder: means and errors, in nats."""
    model, q = training.svi.model, getattr(training.svi.guide, "guide", training.svi.guide)
    exact = evaluate.quadrature(model, torch.cat(list(sets.values()))).split([len(x) for x in sets.values()])
    found = {"samples": training.seen, "gradients": training.gradients, "seconds": training.seconds}
    for (part, x), log_px in zip(sets.items(), exact, strict=True):
        found[part] = {"log_px": mean(log_px)}
        if isinstance(q, guides.Amortized):
            found[part]["elbo"] = mean(evaluate.elbo(model, q, x, seed=seed))
    return found


def mean(values: Tensor) -> dict[str, float]:
    r"""Mean and standard error over images."""
    return Mean.of(values)._asdict()


def curve(name: str, N: int, mnist: data.Dataset, known: dict, a: argparse.Namespace):
    r"""Adds to a curve what it lacks, point by point, and yields each; the training's state is on disk then."""
    sets = {"train": mnist.train[:N][: a.points], "test": mnist.test[: a.points]}
    file = Path(a.out, f"{name}_{N}.pt")
    if "lr" not in known:
        known |= {"lr": rate(name, mnist.train[:N], a.rates, a.seed + 1), "looks": []}
    done = known["looks"][-1]["gradients"] if known["looks"] else 0
    todo = sorted(g for g in a.gradients if g > done)
    if not todo:
        return
    with forked(a.seed):
        training = start(name, mnist.train[:N], known["lr"])
        if done:
            training.load_state_dict(torch.load(file, weights_only=True))
        for gradients in todo:
            train(training, gradients)
            known["looks"].append(looked(training, sets, a.seed))
            with whole(file) as path:
                torch.save(training.state_dict(), path)
            yield known["looks"][-1]


def picture(curves: dict[str, dict[str, dict]]) -> Figure:
    r"""log p(x) on training (solid) and test images (dashed), a row of axes for each N."""
    figure = Figure(figsize=(9, 3.4 * len(curves)), layout="constrained")
    axes = figure.subplots(len(curves), 2, sharey="row", squeeze=False)
    for (N, by_name), pair in zip(curves.items(), axes, strict=True):
        for axis, key, title in zip(
            pair, ("samples", "gradients"), ("training samples", "gradient evaluations"), strict=True
        ):
            for k, name in enumerate(GUIDES):
                for part, style in (("train", "-"), ("test", "--")):
                    points = by_name.get(name, {"looks": []})["looks"]
                    values = [p[part]["log_px"]["mean"] for p in points]
                    axis.plot([p[key] for p in points], values, style, color=colour(k), marker="o", markersize=3)
            axis.set(xscale="log", xlabel=title, title=f"N = {int(N):,}")
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.grid(alpha=0.3)
        pair[0].set_ylabel("log p(x), nats per image")
    lines = [Line2D([], [], color=colour(k), label=TITLES[name]) for k, name in enumerate(GUIDES)]
    lines += [
        Line2D([], [], color="0.3", linestyle=style, label=part) for part, style in (("training", "-"), ("test", "--"))
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def line(N: str, name: str, lr: float, found: dict) -> str:
    r"""One line of the table."""
    begin = f"{N:>6} {name:13} {lr:<6g} {found['samples']:>11,} {found['gradients']:>11,} {found['seconds']:6.0f} s "
    pairs = [(key, part) for key in ("log_px", "elbo") for part in ("train", "test")]
    return begin + " ".join(f"{found[part][key]['mean']:8.2f}" for key, part in pairs if key in found[part])


def begun(file: Path, a: argparse.Namespace) -> dict:
    r"""The record in that file, which holds one protocol, or a new one."""
    protocol = {"points": a.points, "rates": a.rates, "seed": a.seed}
    record = json.loads(file.read_text()) if file.exists() else {"protocol": protocol, "curves": {}}
    if record["protocol"] != protocol:
        raise SystemExit(f"{file} has {record['protocol']}, not {protocol}: give another --out, or move it away")
    return record


def main() -> None:
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    file, mnist = out / "kingma_welling.json", data.mnist(a.data_root, binarization="static")
    record = begun(file, a)
    print("     N guide         lr         samples   gradients  train   log p(x): training, test; F(q): training, test")
    for N in map(str, a.sizes):
        for name in a.guides:
            known = record["curves"].setdefault(N, {}).setdefault(name, {})
            for found in known.get("looks", []):
                print(line(N, name, known["lr"], found))
            for found in curve(name, int(N), mnist, known, a):
                print(line(N, name, known["lr"], found), flush=True)
                with whole(file) as path:
                    path.write_text(json.dumps(record, indent=1) + "\n")
    picture(record["curves"]).savefig(out / "kingma_welling.png", dpi=110)


if __name__ == "__main__":
    main()
