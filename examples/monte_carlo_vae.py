r"""Table 1 of "Monte Carlo variational auto-encoders", row by row: −ELBO and a certified −log p(x) on MNIST.

    python examples/monte_carlo_vae.py --data-root DIR --epochs 10 --rows "VAE; IWAE, K = 10"

Thin et al. (2021), https://arxiv.org/abs/2106.15921: convolutional encoder and decoder with 16-32-64-64 maps, 64
latents, pixels binarized afresh at each access, Adam 1e-3, batches of 100. Their NLL is a short AIS (5 temperatures, 10
samples); ours is log p(x) of the first test images, certified by BDMC. Killed and started again, it goes on where it
was; with other rows or more epochs it adds to the table.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.runs.files import whole
from pyro_dlgm.seeding import forked

LATENTS, BATCH, LR, BLOCK = 64, 100, 1e-3, 500
SHOWN = (10, 30, 100)  # epochs of the published table
ROWS = {
    "VAE": ("mean_field", None),
    "VAE, full rank": ("full_rank", None),
    "IWAE, K = 10": ("mean_field", lambda: objectives.IWAE(10)),
    "IWAE, K = 50": ("mean_field", lambda: objectives.IWAE(50)),
    "DReG, K = 10": ("mean_field", lambda: objectives.DReG(10)),
}
PUBLISHED = {
    "VAE": ((95.26, 91.58, 89.70), (89.83, 86.86, 85.22)),
    "IWAE, K = 10": ((91.42, 88.56, 87.16), (88.54, 86.07, 84.82)),
    "IWAE, K = 50": ((90.34, 87.50, 86.05), (89.40, 86.54, 85.05)),
    "L-MCVAE, K = 10": ((96.78, 87.99, 86.80), (91.33, 85.47, 84.58)),
    "A-MCVAE, K = 5": ((95.55, 87.99, 87.03), (90.39, 85.60, 84.84)),
    "VAE + RealNVP": ((95.23, 91.69, 89.62), (89.98, 86.88, 85.23)),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains rows of Table 1 of Thin et al. (2021) on MNIST and prints the table, in nats per image "
        "(lower is better), beside the published numbers. Writes a run for each row, and table.json.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw, unpacked")
    parser.add_argument("--rows", default="; ".join(ROWS), help="rows to train, with semicolons between")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 30], help="epochs after which to evaluate")
    parser.add_argument("--points", type=int, default=64, help="test images whose log p(x) is certified")
    parser.add_argument("--tol", type=float, default=0.1, help="nats by which the mean of log p(x) may be off")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/monte_carlo_vae", help="folder for the runs and the table")
    return parser.parse_args()


def new_pair(family: str, image_shape: tuple[int, ...], seed: int) -> tuple[DLGM, guides.Amortized]:
    r"""The model and its guide, with the networks' default maps of 16-32-64-64."""
    with forked(seed):
        decoder = nets.ConvDecoder(LATENTS, image_shape)
        guide = guides.Amortized(nets.ConvEncoder(image_shape), LATENTS, family)
    return DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(decoder)), guide


def measured(model: DLGM, guide: guides.Guide, x: Tensor, a: argparse.Namespace) -> dict:
    r"""−ELBO of all test images, −log p(x) of the first ones and what certifies it, in nats per image."""
    bounds = [
        evaluate.elbo(model, guide, part, num_samples=1, seed=a.seed + k) for k, part in enumerate(x.split(BLOCK))
    ]
    found = evaluate.evidence(model, None, x[: a.points], tol=a.tol, seed=a.seed).summary()
    nll = {"nll": -found["log_px"]["mean"], "nll_stderr": found["log_px"]["standard_error"]}
    return {"negative_elbo": -float(torch.cat(bounds).mean())} | nll | {name: found[name] for name in ("bdmc", "notes")}


def row(name: str, mnist: data.Dataset, a: argparse.Namespace, record: dict, file: Path) -> None:
    r"""Trains a row until each of the asked epochs in turn, and puts what is measured there into the file."""
    family, objective = ROWS[name]
    model, guide = new_pair(family, mnist.image_shape, a.seed)
    options = {"batch_size": BATCH, "lr": LR, "schedule": "constant", "seed": a.seed, "transform": mnist.transform}
    options |= {"objective": objective and objective(), "out": file.parent / name.replace(", ", "_").replace(" ", "")}
    todo = [number for number in sorted(a.epochs) if number not in epochs(record, name)]
    if todo and todo[0] < max(epochs(record, name), default=0):
        raise SystemExit(f"{name} was trained for more than {todo[0]} epochs; give another --out, or only more epochs")
    for number in todo:
        run = fit(model, guide, mnist.train, epochs=number, resume=True, progress=True, **options)
        spent = {"seconds": run.history[-1]["seconds"]}
        record["result"][f"{name} | {number}"] = measured(model, guide, mnist.test, a) | spent
        with whole(file) as path:
            path.write_text(json.dumps(record, indent=2) + "\n")


def begun(file: Path, a: argparse.Namespace) -> dict:
    r"""The record in that file, which holds one protocol, or a new one."""
    protocol = {name: getattr(a, name) for name in ("points", "tol", "seed")}
    if not file.exists():
        return {"protocol": protocol, "result": {}}
    record = json.loads(file.read_text())
    if record["protocol"] != protocol:
        raise SystemExit(f"{file} is of {record['protocol']}, not of {protocol}; give another --out, or move it away")
    return record


def table(record: dict) -> str:
    r"""Published and measured numbers after 10, 30 and 100 epochs, in nats per image."""
    lines = [f"{'row':24}{'−ELBO after 10 / 30 / 100 epochs':>36}  −log p(x): published by a short AIS, ours certified"]
    for name, columns in PUBLISHED.items():
        elbo, nll = (" / ".join(f"{v:.2f}" for v in column) for column in columns)
        lines.append(f"{name + ', published':24}{elbo:>36}  {nll}")
    for name in ROWS:
        found = {e: record["result"].get(f"{name} | {e}") for e in sorted({*SHOWN, *epochs(record, name)})}
        if any(found.values()):
            elbo = " / ".join(f"{r['negative_elbo']:.2f}" if r else "–" for r in found.values())
            nll = " / ".join(f"{r['nll']:.2f} (BDMC {r['bdmc']['gap']:.2f})" if r else "–" for r in found.values())
            others = "" if len(found) == len(SHOWN) else f" after {' / '.join(map(str, found))} epochs"
            lines.append(f"{name:24}{elbo:>36}  {nll}{others}")
    return "\n".join(lines)


def epochs(record: dict, name: str) -> list[int]:
    r"""The numbers of epochs after which a row was measured."""
    return [int(key.rpartition(" | ")[2]) for key in record["result"] if key.rpartition(" | ")[0] == name]


def main() -> None:
    a = arguments()
    names = [name.strip() for name in a.rows.split(";")]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SystemExit(f"--rows has {unknown}; expected some of {'; '.join(ROWS)}")
    if a.threads:
        torch.set_num_threads(a.threads)
    file = Path(a.out, "table.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    record, mnist = begun(file, a), data.mnist(a.data_root)
    for name in names:
        row(name, mnist, a, record, file)
    print(table(record))


if __name__ == "__main__":
    main()
