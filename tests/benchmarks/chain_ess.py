r"""Effective draws of p(t | x, w) per second of an E-step: guides.Chain beside Pyro's HMC and NUTS, one by one."""

import argparse
import json
import time
import warnings
from collections.abc import Callable

import measure
import pyro
import torch
from pyro.infer.mcmc import HMC, MCMC, NUTS
from pyro_dlgm.guides.chains.kernel import diagnostics
from torch import Tensor

from pyro_dlgm import DLGM, Points, data, fit, guides, likelihoods, load, nets, priors

POINTS, WIDTHS = 1_000, (16, 32)


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description=f"Times an E-step over {POINTS:,} test images of MNIST (static binarization) under a convolutional "
        "decoder. ESS is ArviZ's bulk ESS of the worst dimension of a point, of all its chains together; its median "
        "and 1%% quantile over points are divided by the seconds that all points take, tuning included. guides.Chain "
        "moves all points at once. Pyro's kernels run point by point on a few of the same points, tuned by Pyro with a "
        f"diagonal mass matrix; their time is scaled to {POINTS:,} points, as is that of guides.Chain on fewer. "
        "Wanted: more at the median and at the 1%% quantile.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder with MNIST/raw")
    parser.add_argument("--run", help="a run on disk with the model; by default one is trained first")
    parser.add_argument("--latents", type=int, default=16, help="the number D of latents of the model trained here")
    parser.add_argument("--steps", type=int, default=600, help="steps of that training, of 128 points each")
    parser.add_argument("--points", type=int, default=POINTS, help="points of guides.Chain")
    parser.add_argument("--draws", type=int, default=200, help="draws of each chain of guides.Chain")
    parser.add_argument("--chains", type=int, default=4, help="chains of a point of guides.Chain")
    parser.add_argument("--leapfrog", type=int, nargs="+", default=[10], help="leapfrog steps of a transition")
    parser.add_argument("--pyro-points", type=int, default=5, help="points of Pyro's kernels; 0 leaves them out")
    parser.add_argument("--pyro-draws", type=int, default=200, help="draws of Pyro's one chain a point, after as many")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and chains")
    parser.add_argument("--out", default="runs/bench", help="folder for chain_ess.json")
    return parser.parse_args()


def trained(a: argparse.Namespace, x: Tensor):
    r"""The model of a run, or one trained here as a variational autoencoder, in eval mode."""
    if a.run:
        return load(a.run)[0].eval()
    torch.manual_seed(a.seed)
    decoder = nets.ConvDecoder(a.latents, x.shape[1:], widths=WIDTHS)
    model = DLGM(priors.StandardNormal(a.latents), likelihoods.Bernoulli(decoder))
    guide = guides.Amortized(nets.ConvEncoder(x.shape[1:], widths=WIDTHS), a.latents)
    result = fit(model, guide, x, steps=a.steps, batch_size=128, lr=1e-3, schedule="constant", seed=a.seed)
    print(f"trained: ELBO {result.history[-1]['elbo']:.1f} nats, {result.history[-1]['seconds']:.0f} s", flush=True)
    return model.eval()


def worst(draws: Tensor) -> Tensor:
    r"""Bulk ESS of the worst dimension of each point, (B,), of draws (S, M, B, D)."""
    return diagnostics(draws)[1].amin(-1)


def ours(model, x: Tensor, leapfrog: int, a: argparse.Namespace) -> dict:
    r"""All points at once: the burn-in, transitions that tune, and draws."""
    torch.manual_seed(a.seed)
    index = torch.arange(len(x))
    settings = {"num_states": a.chains, "num_leapfrog": leapfrog}
    guide = guides.Chain(model, len(x), model.prior().event_shape[0], **settings)
    start = time.perf_counter()
    guide.e_step(Points(x, index))
    kernel = guide._kernel(x, index, None)
    with pyro.validation_enabled(False):
        state = kernel.start(guide.samples(index))
        draws = torch.stack(kernel.run(state, a.draws // 2, a.draws)[1])
    seconds = time.perf_counter() - start
    print(f"Chain, {leapfrog} leapfrog: {len(x)} points, {seconds:.0f} s", flush=True)
    return summary(worst(draws), seconds * POINTS / len(x))


def theirs(make: Callable, model, x: Tensor, a: argparse.Namespace) -> dict:
    r"""A kernel of Pyro's, point by point."""
    each, seconds = [], 0.0
    for i in range(a.pyro_points):
        pyro.set_rng_seed(a.seed + i)
        point = x[i : i + 1]
        start = time.perf_counter()
        kernel = make(potential_fn=lambda params, point=point: -model.log_joint(point, params["t"][None]).sum())
        first = {"t": model.prior().sample()}
        mcmc = MCMC(kernel, a.pyro_draws, a.pyro_draws, initial_params=first, disable_progbar=True)
        with pyro.validation_enabled(False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mcmc.run()
        seconds += time.perf_counter() - start
        print(f"{make.__name__}: point {i + 1} of {a.pyro_points}, {seconds:.0f} s so far", flush=True)
        # (S, D) -> (S/2, 2, 1, D): ArviZ splits a chain in any case, and asks for two.
        each.append(worst(mcmc.get_samples()["t"].unflatten(0, (2, -1)).transpose(0, 1).unsqueeze(2)))
    return summary(torch.cat(each), seconds * POINTS / a.pyro_points) | {"points": a.pyro_points}


def summary(ess: Tensor, seconds: float) -> dict:
    r"""Median and 1% quantile of ESS over the points, and both per second."""
    low, middle = (ess.quantile(q).item() for q in (0.01, 0.5))
    found = {"seconds": seconds, "ess_median": middle, "ess_1%": low}
    return found | {"per_second_median": middle / seconds, "per_second_1%": low / seconds}


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    mnist = data.mnist(a.data_root, binarization="static")
    model = trained(a, mnist.train)
    for p in model.parameters():
        p.requires_grad_(False)
    x = mnist.test[: a.points]
    result = {f"Chain, {n} leapfrog": ours(model, x, n, a) for n in a.leapfrog}
    if a.pyro_points:
        for name, make in (("Pyro HMC", HMC), ("Pyro NUTS", NUTS)):
            result[name] = theirs(make, model, x, a)
    best = max((v for k, v in result.items() if k.startswith("Chain")), key=lambda v: v["per_second_median"])
    for name, found in result.items():
        print(f"{name}: {json.dumps({k: float(f'{v:.3g}') for k, v in found.items()})}")
        ratios = [best[k] / found[k] for k in ("per_second_median", "per_second_1%")]
        print(f"    Chain's best has {ratios[0]:.3g} times as many at the median, {ratios[1]:.3g} at the 1% quantile")
    print("written:", measure.save(a.out, "chain_ess", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
