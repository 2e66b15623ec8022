r"""What `DLGM.log_joint` costs beside the sum of the two densities that it is, for models of several sizes."""

import argparse

import measure
import pyro
import torch

from pyro_dlgm import DLGM, likelihoods, nets, priors

OURS, HAND = "DLGM.log_joint", "p(t).log_prob(t) + p(x | t).log_prob(x)"
IMAGE = (1, 28, 28)
SIZES = {
    "linear, 2 to 6, 10 points": lambda: (likelihoods.FixedNormal(nets.Linear(2, 6)), 2, 10),
    "mlp, 50-200-200-784, 128 points": lambda: (likelihoods.Bernoulli(nets.MLP(50, IMAGE, hidden=(200, 200))), 50, 128),
    "conv, 64 to 28x28, 100 points": lambda: (likelihoods.Bernoulli(nets.ConvDecoder(64, IMAGE)), 64, 100),
}


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Times one call of DLGM.log_joint beside the two densities added up by hand, both as evaluate "
        "calls them: without gradients, and with Pyro's validation off.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds in which the two take turns")
    parser.add_argument("--steps", type=int, default=40, help="calls of each in a round")
    parser.add_argument("--warmup", type=int, default=40, help="calls before the clock starts")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of starting values, data and codes")
    parser.add_argument("--out", default="runs/bench", help="folder for log_joint.json")
    return parser.parse_args()


def contenders(size: str) -> dict[str, measure.Step]:
    r"""The two ways to the same number, which is checked."""
    likelihood, D, B = SIZES[size]()
    model, t = DLGM(priors.StandardNormal(D), likelihood), torch.randn(B, D)
    x = likelihood(t).sample()
    ways = {
        OURS: lambda: model.log_joint(x, t),
        HAND: lambda: model.prior().log_prob(t) + likelihood(t).log_prob(x),
    }
    torch.testing.assert_close(ways[OURS](), ways[HAND]())
    return ways


@torch.no_grad()
@pyro.validation_enabled(False)
def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    result = {}
    for size in SIZES:
        torch.manual_seed(a.seed)
        result[size] = measure.rounds(contenders(size), num_rounds=a.rounds, steps=a.steps, warmup=a.warmup)
        print(f"{size}\n{measure.table(result[size], HAND)}\n")
    print("written:", measure.save(a.out, "log_joint", seed=a.seed, protocol=vars(a), seconds_per_call=result))


if __name__ == "__main__":
    main()
