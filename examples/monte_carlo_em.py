r"""Whether samples of the posterior train a better w than its mode, or than a q that climbs F, at one price.

    python examples/monte_carlo_em.py --data digits
    python examples/monte_carlo_em.py --data mnist --data-root DIR --budgets 200

Every row of a seed starts from the same w and spends the same number of gradient evaluations of log p(x, t | w) per
training point, those of HMC included: chains pay with steps on w. With several rates in --lr each row chooses its own
for each budget, on validation points and with a seed that no result has. MNIST is binarized once, by one seeded draw
that is kept: a row, or a chain, belongs to one image. The score is of w alone: log p(x | w) of the same test points by
annealed importance sampling from a full-rank q that knows nothing of the row's guide.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from pyro_dlgm import DLGM, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.comparison.method import epochs
from pyro_dlgm.comparison.scoring import infer_silently
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.recipes.pairs import CHAIN, HYBRID
from pyro_dlgm.runs.files import whole
from pyro_dlgm.seeding import forked, seeds

LATENTS, BATCH, ROW_LR, RATES = 16, 100, 1e-1, (2e-3,)
IMAGES, SIMULATED = 10_000, 32  # training images, at most; points that BDMC simulates
CHOOSING, VALIDATION = 100, 64  # the seed and the points with which a learning rate is chosen
ANNEALED = {"num_chains": 4, "num_temperatures": 100, "num_leapfrog": 5}
WIDTHS = (32, 64)
LIKELIHOODS = {"digits": lambda net: likelihoods.FixedNormal(net, 0.3), "mnist": likelihoods.Bernoulli}
GUIDES = {
    "hard-em": lambda model, N, encoder: guides.PointEstimate(N, LATENTS),
    "mean-field": lambda model, N, encoder: guides.MeanField(N, LATENTS),
    "amortized": lambda model, N, encoder: guides.Amortized(encoder(), LATENTS),
    "mcem": lambda model, N, encoder: guides.Chain(model, N, LATENTS, **CHAIN),
    "mcem-encoder": lambda model, N, encoder: guides.Hybrid(model, guides.Amortized(encoder(), LATENTS), **HYBRID),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains one model with hard EM, Monte Carlo EM and variational EM at the same budgets of gradients "
        "and compares log p(x) of test points. Writes monte_carlo_em_DATA.json; a result that is there is left out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", choices=list(LIKELIHOODS), default="digits", help="which data")
    parser.add_argument("--data-root", default=".", help="folder that holds MNIST/raw, unpacked; digits need none")
    parser.add_argument("--guides", nargs="+", choices=list(GUIDES), default=list(GUIDES), help="which rows")
    parser.add_argument("--budgets", type=int, nargs="+", default=[300], help="gradients per training point")
    parser.add_argument("--lr", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each a w, its trainings and scores")
    parser.add_argument("--points", type=int, default=128, help="test points, the first ones")
    parser.add_argument("--out", default="runs/monte_carlo_em", help="folder for the results")
    return parser.parse_args()


def networks(known: data.Dataset):
    r"""A decoder, and a function that makes an encoder: convolutional for digits, two layers of 200 units for MNIST."""
    shape = known.image_shape
    if known.name == "digits":
        return nets.ConvDecoder(LATENTS, shape, widths=WIDTHS), lambda: nets.ConvEncoder(shape, 128, widths=WIDTHS)
    return nets.MLP(LATENTS, shape), lambda: nets.MLP(shape, 200)


def row(name: str, seed: int, budget: int, lr: float, known: data.Dataset, x: Tensor, simulated: int) -> dict:
    r"""A training with its score: log p(x | w) of the points x, in nats, and what is known of its error."""
    train = known.train[:IMAGES]
    with forked(seed):
        decoder, encoder = networks(known)
        model = DLGM(priors.StandardNormal(LATENTS), LIKELIHOODS[known.name](decoder))
        guide = GUIDES[name](model, len(train), encoder)
    work = {"epochs": epochs(guide, budget), "batch_size": min(BATCH, len(train)), "transform": known.transform}
    try:
        run = fit(model, guide, train, lr=lr, row_lr=ROW_LR, schedule="cosine", seed=seed, **work)
    except FloatingPointError as error:
        return {"log_px": None, "reason": str(error)}
    fitted, walked, made = seeds(3, seed)
    judge = infer_silently(model, guides.FullRank(1, LATENTS).to(x), x, fitted)
    found = evaluate.ais(model, judge, x, torch.arange(len(x)), seed=walked, **ANNEALED)
    result = run.history[-1] | {"lr": lr, "log_px": found.log_px.tolist(), "stderr": float(found.stderr.mean())}
    if simulated:
        result["bdmc_gap"] = evaluate.bdmc(model, judge, simulated, seed=made, **ANNEALED).gap
    return result


def chosen(name: str, budget: int, record: dict, known: data.Dataset, a: argparse.Namespace) -> float:
    r"""The learning rate of w with the largest log p(x) of validation points; a single one is not tried."""
    tried = {lr: f"{budget}/{name}/{lr}" for lr in a.lr if len(a.lr) > 1}
    for lr, key in tried.items():
        if key not in record["tried"]:
            log_px = row(name, CHOOSING, budget, lr, known, known.val[:VALIDATION], 0)["log_px"]
            keep(record, "tried", key, sum(log_px) / len(log_px) if log_px else None, a)
    kept = {lr: record["tried"][key] for lr, key in tried.items() if record["tried"][key] is not None}
    return max(kept, key=kept.get, default=a.lr[0])


def begun(a: argparse.Namespace) -> dict:
    r"""The record in the file, which holds one protocol, or a new one."""
    protocol = {"points": a.points, "chain": CHAIN, "hybrid": HYBRID, "annealed": ANNEALED}
    record = json.loads(a.file.read_text()) if a.file.exists() else {"protocol": protocol, "tried": {}, "result": {}}
    other = [name for name in protocol if record["protocol"][name] != protocol[name]]
    if other:
        raise SystemExit(f"{a.file} has other values of {', '.join(other)}; give another --out, or move it away")
    return record


def keep(record: dict, part: str, key: str, value, a: argparse.Namespace) -> None:
    record[part][key] = value
    with whole(a.file) as path:
        path.write_text(json.dumps(record) + "\n")


def mean(values: Tensor) -> str:
    return f"{values.mean():.2f}" + (f" ± {Mean.of(values).standard_error:.2f}" if len(values) > 1 else "")


def table(rows: dict[str, list[dict]]) -> str:
    r"""The rows of one budget; ± is the standard error over seeds, and in brackets that over the points of a seed."""
    log_px = {name: torch.tensor([each["log_px"] for each in found]) for name, found in rows.items()}  # (seeds, points)
    best = max({"mean-field", "amortized"} & rows.keys(), key=lambda name: log_px[name].mean(), default=None)
    lines = []
    for name, found in rows.items():
        spent, seconds = (max(each[key] for each in found) for key in ("gradients_per_point", "seconds"))
        gap = max(each["bdmc_gap"] for each in found)
        paid = f"lr {found[0]['lr']:g}  {spent:.0f} gradients, {seconds:.0f} s"
        lines += [f"{name:14}{mean(log_px[name].mean(1)):16} BDMC gap {gap:.3f}  {paid}"]
        for other in dict.fromkeys(("hard-em", best)):
            if other in rows and other != name:
                paired = log_px[name] - log_px[other]
                lines += [f"  − {other:10}{mean(paired.mean(1)):16} ({', '.join(map(mean, paired))})"]
    return "\n".join(lines) + "\n"


def main() -> None:
    a = arguments()
    a.file = Path(a.out) / f"monte_carlo_em_{a.data}.json"
    a.file.parent.mkdir(parents=True, exist_ok=True)
    record, rows = begun(a), {}
    known = data.digits() if a.data == "digits" else data.mnist(a.data_root, num_val=1000, binarization="static")
    for budget in a.budgets:
        for name in a.guides:
            lr = chosen(name, budget, record, known, a)
            for seed in a.seeds:
                x, key = known.test[: a.points], f"{budget}/{name}/{lr}/{seed}"
                if key not in record["result"]:
                    keep(record, "result", key, row(name, seed, budget, lr, known, x, SIMULATED), a)
            rows[name] = [record["result"][f"{budget}/{name}/{lr}/{seed}"] for seed in a.seeds]
        print(f"{a.data}, {budget} gradients per training point, seeds {a.seeds}, nats per test point")
        print(table({name: found for name, found in rows.items() if all(each["log_px"] for each in found)}), flush=True)


if __name__ == "__main__":
    main()
