r"""How far each guide is from the posterior, and why: log p(x) − F(q) taken apart for three guides of one MNIST model.

    python examples/inference_gap.py --data-root DIR

The convolutional model of `mnist_conv.py`, trained with an amortized guide, with a mean-field row for each point and
with a full-rank row for each point; then log p(x) − F(q) = approximation gap + amortization gap, on 128 training and on
128 test points, with log p(x) by annealed importance sampling. Images are binarized once, by one seeded draw that is
kept: a row belongs to one image, and would otherwise have to serve all its binarizations.
"""

import argparse
import json
import platform
from pathlib import Path

import pyro
import torch

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.runs.files import whole
from pyro_dlgm.seeding import forked

LATENTS, BATCH, LR, ROW_LR = 64, 100, 1e-3, 1e-1
NETWORK = {"widths": (32, 64, 64, 64), "norm": True}  # GroupNorm: no point sees its batch
PROTOCOL = ("epochs", "images", "points", "chains", "temperatures", "seed")  # one for all results of a file
GUIDES = {
    "amortized": lambda N, shape: guides.Amortized(nets.ConvEncoder(shape, **NETWORK), LATENTS),
    "mean-field": lambda N, shape: guides.MeanField(N, LATENTS),
    "full-rank": lambda N, shape: guides.FullRank(N, LATENTS),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains one convolutional model of MNIST with three guides and takes their inference gaps apart. "
        "Writes inference_gap.json; a guide that is in it already is left out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw, unpacked")
    parser.add_argument("--guides", nargs="+", choices=list(GUIDES), default=list(GUIDES), help="which guides")
    parser.add_argument("--epochs", type=int, default=10, help="passes through the training images")
    parser.add_argument("--images", type=int, default=60_000, help="how many training images")
    parser.add_argument("--points", type=int, default=128, help="points of each set whose gap is measured")
    parser.add_argument("--chains", type=int, default=4, help="annealed chains of each point")
    parser.add_argument("--temperatures", type=int, default=200, help="temperatures of a chain")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/inference_gap", help="folder for the results")
    return parser.parse_args()


def trained(name: str, mnist: data.Dataset, a: argparse.Namespace):
    r"""The pair of that name, trained, and the last record of its history."""
    x = mnist.train[: a.images]
    with forked(a.seed):
        decoder = nets.ConvDecoder(LATENTS, mnist.image_shape, **NETWORK)
        model = DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(decoder))
        guide = GUIDES[name](len(x), mnist.image_shape)
    rates = {"lr": LR, "row_lr": ROW_LR, "schedule": "constant"}
    run = fit(model, guide, x, epochs=a.epochs, batch_size=BATCH, seed=a.seed, progress=True, **rates)
    return model, guide, run.history[-1]


def measured(model, guide, mnist: data.Dataset, a: argparse.Namespace) -> dict:
    r"""The gaps on training and on test points; BDMC stands beside the latter, for both."""
    annealed = {"num_chains": a.chains, "num_temperatures": a.temperatures, "seed": a.seed, "progress": True}
    train, test = mnist.train[: a.points], mnist.test[: a.points]
    index, result, q = torch.arange(a.points), {}, guide
    gaps = evaluate.gaps(model, guide, train, index, families=("full_rank",), num_simulated=0, **annealed)
    result["train"] = gaps.summary()
    if guide.per_point:
        # Rows of training points are none for test points: they get theirs by an E-step, w frozen.
        q = evaluate.infer(model, guide, test, seed=a.seed)
    result["test"] = evaluate.gaps(model, q, test, index, families=("full_rank",), **annealed).summary()
    return result


def machine() -> dict:
    r"""What it ran on."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "pyro": pyro.__version__}
    return {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()} | versions


def begun(file: Path, a: argparse.Namespace) -> dict:
    r"""The record in that file, which holds one protocol, or a new one."""
    if not file.exists():
        return {"machine": machine(), "protocol": vars(a), "result": {}}
    record = json.loads(file.read_text())
    other = [name for name in PROTOCOL if record["protocol"][name] != getattr(a, name)]
    if other:
        raise SystemExit(f"{file} has other values of {', '.join(other)}; give another --out, or move it away")
    return record


def line(name: str, part: str, gaps: dict) -> str:
    r"""One line of the table, in nats per image."""
    cells = [f"{gaps[key]['mean']:8.2f} ± {gaps[key]['standard_error']:.2f}" for key in SHOWN]
    certificate = f"  BDMC gap {gaps['bdmc']['gap']:.2f}" if "bdmc" in gaps else ""
    return f"{name:10} {part:5} " + " ".join(cells) + f"  {gaps['unconverged']} late{certificate}"


SHOWN = ("log_px", "reached", "approximation", "amortization", "total")


def main() -> None:
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "inference_gap.json"
    record = begun(file, a)
    mnist = data.mnist(a.data_root, binarization="static")
    for name in a.guides:
        if name not in record["result"]:
            model, guide, last = trained(name, mnist, a)
            torch.save(model.state_dict(), out / f"{name}.pt")
            record["result"][name] = measured(model, guide, mnist, a) | {"training": last}
            with whole(file) as path:
                path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"{'guide':10} {'part':5} " + " ".join(f"{key:>15}" for key in SHOWN))
    for name, result in record["result"].items():
        print("\n".join(line(name, part, result[part]) for part in ("train", "test")))


if __name__ == "__main__":
    main()
