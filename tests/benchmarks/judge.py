r"""The price of a certified log p(x): an E-step with 4 chains of 200 temperatures, against the starts of Laplace."""

import argparse
import json
import sys
import time
import warnings
from functools import partial

import measure
import torch
from torch import Tensor

from pyro_dlgm import DLGM, PPCA, data, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.estimates import Mean
from pyro_dlgm.evaluate.marginal.annealing.path import Settings
from pyro_dlgm.evaluate.marginal.estimate import Evidence
from pyro_dlgm.points import Points
from pyro_dlgm.recipes import datasets

OLD = {"num_chains": 4, "num_temperatures": 200, "num_samples": 200}
LEAPFROG = 10


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Certifies log p(x) of the same points in two ways, on models trained on digits: from a full-rank "
        "E-step with 4 x 200 x 10 leapfrog steps, and by evaluate.evidence without a judge. Wanted: a tenth of the "
        "seconds at an equal or smaller gap, and no estimate moved by more than its errors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=40, help="test points")
    parser.add_argument("--simulated", type=int, help="simulated points; as many as test points if left out")
    parser.add_argument("--tol", type=float, default=0.1, help="nats")
    parser.add_argument("--out", default="runs/bench", help="folder for judge.json")
    a = with_models(parser).parse_args()
    a.simulated = a.simulated or a.points
    return a


def with_models(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    r"""The parser with the options of `models`."""
    parser.add_argument("--latents", type=int, default=16, help="the number D of latents")
    parser.add_argument("--epochs", type=int, default=40, help="of training on digits, by an amortized guide")
    parser.add_argument("--mnist-epochs", type=int, default=5, help="of training on MNIST, by an amortized guide")
    parser.add_argument("--data-root", help="folder that holds MNIST, for its MLP with 50 latents and conv with 64")
    parser.add_argument("--models", nargs="+", help="which ones, by their names in the table; all of them if left out")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything")
    return parser


def models(a: argparse.Namespace) -> dict[str, tuple[DLGM, Tensor]]:
    r"""Trained models with test points: bits, one σ, σ²(t), two latents, PPCA; with ``--data-root``, bits of MNIST."""
    digits, D = data.digits(), a.latents
    shape, test = digits.image_shape, digits.test[: a.points]

    def conv(latents: int = D, heads: int = 1):
        return nets.ConvDecoder(latents, shape, heads=heads, widths=(32, 64))

    def on_digits(likelihood, latents: int, transform=digits.transform):
        return trained(likelihood, digits.train, transform, latents, a.epochs, a.seed)

    bits = lambda x: (digits.transform(x) > 0.5).float()  # noqa: E731
    found = {
        "Bernoulli, MLP": lambda: (on_digits(likelihoods.Bernoulli(nets.MLP(D, shape)), D, bits), (test > 0.5).float()),
        "one σ, conv": lambda: (on_digits(likelihoods.FixedNormal(conv(), 0.3), D), test),
        "σ²(t), conv": lambda: (on_digits(likelihoods.DiagonalNormal(conv(heads=2)), D), test),
        "two latents": lambda: (on_digits(likelihoods.FixedNormal(conv(2), 0.3), 2), test),
        "PPCA": lambda: (PPCA.fit(digits.transform(digits.train).flatten(1), D), test.flatten(1)),
    }
    if a.data_root is not None:
        found["MNIST, MLP"] = partial(on_mnist, nets.MLP, 50, a)
        found["MNIST, conv"] = partial(on_mnist, nets.ConvDecoder, 64, a)
    chosen = a.models or list(found)
    if unknown := set(chosen) - set(found):
        raise SystemExit(f"no model {sorted(unknown)}; expected some of {list(found)}, those of MNIST with --data-root")
    return {name: found[name]() for name in chosen}


def on_mnist(net, latents: int, a: argparse.Namespace) -> tuple[DLGM, Tensor]:
    r"""A Bernoulli model trained on MNIST, and test images."""
    mnist = datasets.dataset("mnist", a.data_root, "bernoulli")
    likelihood = likelihoods.Bernoulli(net(latents, mnist.image_shape))
    model = trained(likelihood, mnist.train, mnist.transform, latents, a.mnist_epochs, a.seed)
    return model, mnist.test[: a.points]


def trained(likelihood, x: Tensor, transform, D: int, epochs: int, seed: int) -> DLGM:
    r"""A model trained by an amortized guide."""
    model, guide = DLGM(priors.StandardNormal(D), likelihood), guides.Amortized(nets.MLP(x.shape[1:], 128), D)
    fit(model, guide, x, transform=transform, epochs=epochs, seed=seed)
    return model


def truth(name: str, model, x: Tensor) -> Tensor | None:
    r"""log p(x) where it is known."""
    if name == "PPCA":
        return model.log_prob(x).detach()
    return evaluate.quadrature(model, x) if name == "two latents" else None


def by_judge(model, x: Tensor, a: argparse.Namespace) -> tuple[Evidence, float]:
    r"""The former way, and its gradient evaluations per point."""
    points = Points(x).numbered()
    start = guides.FullRank(1, model.prior.latent_dim)
    q = evaluate.infer(model, start, x, seed=a.seed)
    found = evaluate.evidence(model, q, points, **OLD, num_simulated=a.simulated, seed=a.seed)
    walks = Settings(4, OLD["num_temperatures"], LEAPFROG, 0.65, 2**28)
    steps = q.convergence.gradients_per_point
    # BDMC fits its simulated points as well, at about the same price.
    certificate = (steps + walks.gradients(2)) * a.simulated / len(x)
    return found, steps + walks.gradients(1) + certificate + OLD["num_samples"]


def by_laplace(model, x: Tensor, a: argparse.Namespace) -> tuple[Evidence, float]:
    r"""The new way, and its gradient evaluations per point."""
    found = evaluate.evidence(model, None, x, num_simulated=a.simulated, tol=a.tol, seed=a.seed)
    return found, found.gradients_per_point


def timed(way, model, x: Tensor, a: argparse.Namespace) -> dict:
    r"""What a way says and costs."""
    begin = time.perf_counter()
    found, gradients = way(model, x, a)
    seconds = time.perf_counter() - begin
    return {"found": found, "gradients": gradients, "seconds": seconds, "gap": found.certificate.gap} | {
        "gap_error": found.certificate.stderr,
        "temperatures": found.num_temperatures or OLD["num_temperatures"],
    }


def row(name: str, model, x: Tensor, a: argparse.Namespace) -> dict:
    r"""Both ways on one model, and their difference."""
    old, new = (timed(way, model, x, a) for way in (by_judge, by_laplace))
    of_new, exact = new.pop("found").annealed, truth(name, model, x)
    moved = of_new - old.pop("found").annealed
    off_truth = None if exact is None else float((of_new.value - exact).mean())
    off = Mean.of(moved.value)
    error = float(torch.hypot(torch.tensor(off.standard_error), torch.tensor(moved.summary()["monte_carlo_error"])))
    print(f"{name}: new − old {off.mean:+.4f} ± {error:.4f} nats; new − exact {off_truth}", flush=True)
    for what, each in (("old", old), ("new", new)):
        said = f"{each['gradients']:8.0f} gradients a point {each['seconds']:7.1f} s, T = {each['temperatures']:3d}"
        print(f"  {what} {said}, BDMC {each['gap']:+.4f} ± {each['gap_error']:.4f}", flush=True)
    return {"model": name, "old": old, "new": new, "moved": off.mean, "moved_error": error, "off": off_truth}


def main() -> int:
    r"""Measures, prints, writes; the exit status is the number of claims that do not hold."""
    a = arguments()
    measure.use_threads(a.threads)
    torch.manual_seed(a.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row(name, model.eval(), x, a) for name, (model, x) in models(a).items()]
    failed = [r["model"] for r in rows if abs(r["moved"]) > 2 * r["moved_error"] + 1e-4]
    slow = [r["model"] for r in rows if r["new"]["seconds"] > 0.1 * r["old"]["seconds"]]
    print(f"Moved by more than two errors: {failed or 'none'}. More than a tenth of the seconds: {slow or 'none'}.")
    print(f"Written: {measure.save(a.out, 'judge', arguments=vars(a), rows=json.loads(json.dumps(rows)))}")
    return len(failed) + len(slow)


if __name__ == "__main__":
    sys.exit(main())
