r"""What a training step costs with the guide of any program, beside the guide that is written for a `DLGM`."""

import argparse
import copy
import itertools

import measure
import torch

from pyro_dlgm import DLGM, SVI, guides, likelihoods, nets, priors

PIXELS, LATENTS, NUM_POINTS = 64, 10, 10_000
WANTED = 1.2


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Times a training step of a DLGM with a standard normal prior, with guides.AutoPerPoint against "
        "guides.MeanField and guides.AutoAmortized against guides.Amortized. The networks are linear, or an MLP "
        f"with a hidden layer, so that bookkeeping counts. Wanted: ratio <= {WANTED}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds in which the contenders take turns")
    parser.add_argument("--steps", type=int, default=40, help="steps of each contender in a round")
    parser.add_argument("--warmup", type=int, default=40, help="steps before the clock starts")
    parser.add_argument("--batch", type=int, default=128, help="points in a batch")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, batches and starting values")
    parser.add_argument("--out", default="runs/bench", help="folder for auto_price.json")
    return parser.parse_args()


def new_model() -> DLGM:
    r"""A linear decoder: the time of a step is that of the rows and of the bookkeeping."""
    return DLGM(priors.StandardNormal(LATENTS), likelihoods.FixedNormal(nets.Linear(LATENTS, PIXELS)))


def pairs() -> dict[str, dict[str, tuple]]:
    r"""The pair with the guide of a `DLGM` and that with the guide of any program, for each source of q's numbers."""
    p, q, r, s = (new_model() for _ in range(4))
    encoder = nets.MLP(PIXELS, 64)
    rows = {"MeanField": (p, guides.MeanField(NUM_POINTS, LATENTS))}
    rows["AutoPerPoint"] = q, guides.AutoPerPoint(q, NUM_POINTS)
    amortized = {"Amortized": (r, guides.Amortized(encoder, LATENTS))}
    amortized["AutoAmortized"] = s, guides.AutoAmortized(s, copy.deepcopy(encoder))
    return {"rows": rows, "encoder": amortized}


def stepper(model: DLGM, guide, a: argparse.Namespace) -> measure.Step:
    r"""A training step as `fit` takes it, on batches in shuffled order."""
    data = [(torch.randn(a.batch, PIXELS), index) for index in torch.randperm(NUM_POINTS).split(a.batch)[:50]]
    if isinstance(guide, guides.AutoPerPoint | guides.AutoAmortized):
        guide.setup(*data[0], size=NUM_POINTS)
    svi, batches = SVI(model, guide, check_every=1), itertools.cycle(data)

    def step():
        x, index = next(batches)
        return svi.step(x, index, mask=None, size=NUM_POINTS, factor=1 / NUM_POINTS)

    return step


def main() -> int:
    r"""Measures, prints, writes; the exit status is the number of ratios that are too large."""
    a = arguments()
    measure.use_threads(a.threads)
    torch.manual_seed(a.seed)
    result = {}
    for source, made in pairs().items():
        contenders = {name: stepper(*pair, a) for name, pair in made.items()}
        measured = measure.rounds(contenders, num_rounds=a.rounds, steps=a.steps, warmup=a.warmup)
        hand, auto = contenders
        print(f"{source}\n{measure.table(measured, hand)}\n")
        result[source] = {"seconds_per_step": measured, "ratio": measure.ratio(measured[auto], measured[hand])}
    print("written:", measure.save(a.out, "auto_price", seed=a.seed, protocol=vars(a), result=result))
    return sum(each["ratio"]["median"] > WANTED for each in result.values())


if __name__ == "__main__":
    raise SystemExit(main())
