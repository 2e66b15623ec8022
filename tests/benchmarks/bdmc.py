r"""What annealing is worth and what it costs: BDMC gaps over T from the prior and from q; HMC gradients a second."""

import argparse
import time
from pathlib import Path

import measure
import torch
from matplotlib.figure import Figure

from pyro_dlgm import DLGM, data, evaluate, fit, guides, hmc, likelihoods, nets, priors
from pyro_dlgm.evaluate.marginal.annealing.blocks import annealing
from pyro_dlgm.seeding import forked

LATENTS, LEAPFROG = 50, 10


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains a decoder with two layers of 200 units and 50 latents on MNIST, then brackets log p(x) of "
        "simulated images over the number of temperatures. Wanted: a gap of at most 0.1 nats at T = 500 from q, and at "
        "least 0.6 HMC gradients for each forward and backward pass of the decoder in the same time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data-root", required=True, help="folder that holds MNIST/raw, unpacked")
    parser.add_argument("--epochs", type=int, default=60, help="passes through the 60,000 training images")
    parser.add_argument("--points", type=int, default=50, help="simulated images")
    parser.add_argument("--chains", type=int, default=4, help="chains of a point")
    parser.add_argument(
        "--temperatures", type=int, nargs="+", default=[20, 50, 100, 200, 500, 1000], help="values of T"
    )
    parser.add_argument("--rounds", type=int, default=30, help="rounds in which HMC and the decoder take turns")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random")
    parser.add_argument("--out", default="runs/bench", help="folder for bdmc.json, bdmc.png and the trained run")
    return parser.parse_args()


def trained(a: argparse.Namespace):
    r"""The pair, trained, or as it was left by an earlier call."""
    with forked(a.seed):
        model = DLGM(priors.StandardNormal(LATENTS), likelihoods.Bernoulli(nets.MLP(LATENTS, (1, 28, 28))))
        guide = guides.Amortized(nets.MLP((1, 28, 28), 200, hidden=(200,)), LATENTS)
    mnist = data.mnist(a.data_root)
    settings = {"epochs": a.epochs, "batch_size": 100, "lr": 1e-3, "schedule": "linear", "seed": a.seed}
    folder = Path(a.out, "mlp")
    run = fit(model, guide, mnist.train, transform=mnist.transform, progress=True, out=folder, resume=True, **settings)
    return model, guide, run.history[-1]["elbo"]


def gaps(model, guide, a: argparse.Namespace) -> list[dict]:
    r"""BDMC from the prior and from q for each T, line by line as they come."""
    found = []
    for name, start in (("q", guide), ("prior", None)):
        for T in a.temperatures:
            begun = time.perf_counter()
            bounds = evaluate.bdmc(model, start, a.points, a.chains, T, seed=a.seed)
            row = {"start": name, "T": T, "gap": bounds.gap, "stderr": bounds.stderr}
            found.append(row | {"seconds": time.perf_counter() - begun})
            print(f"{name:6} T = {T:5}: gap {bounds.gap:7.3f} ± {bounds.stderr:.3f} nats", flush=True)
    return found


def rates(model, a: argparse.Namespace) -> dict[str, list[float]]:
    r"""Seconds for a gradient of all rows: in HMC, of the decoder with its log-density, of the decoder alone."""
    rows = a.points * a.chains
    x = model(size=a.points).detach()
    t = torch.randn(a.chains, a.points, LATENTS)
    net, ones = model.likelihood.net, torch.ones(rows, 1, 28, 28)
    target = x.expand(a.chains, *x.shape).reshape(rows, 1, 28, 28)

    def log_joint(t):
        return model.log_joint(x, t)

    def transition():
        hmc.hmc([log_joint], state, torch.tensor(0.05), num_leapfrog=LEAPFROG)

    def with_density():
        v = t.reshape(rows, LATENTS).clone().requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(v), target, reduction="sum")
        torch.autograd.grad(loss, v)

    def decoder():
        v = t.reshape(rows, LATENTS).clone().requires_grad_()
        torch.autograd.grad(net(v), v, ones)

    def repeated(gradient):
        return lambda: [gradient() for _ in range(LEAPFROG)]

    # Each makes as many gradients in a turn: what disturbs a long one more than a short one would tilt the ratio.
    contenders = {"hmc": transition, "decoder and density": repeated(with_density), "decoder": repeated(decoder)}
    with annealing(model, None, seed=a.seed), torch.enable_grad():
        state = hmc.start([log_joint], t)
        found = measure.rounds(contenders, num_rounds=a.rounds, steps=5, warmup=3)
    return {name: [seconds / LEAPFROG for seconds in turns] for name, turns in found.items()}


def picture(found: list[dict]) -> Figure:
    r"""The gap over T, on two logarithmic axes."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axis = figure.subplots()
    for name, title in (("prior", "from the prior"), ("q", "from the encoder's q")):
        rows = [row for row in found if row["start"] == name]
        places, gaps = [row["T"] for row in rows], [row["gap"] for row in rows]
        axis.errorbar(
            places, gaps, [2 * row["stderr"] for row in rows], marker="o", markersize=4, capsize=3, label=title
        )
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set(xscale="log", xlabel="temperatures T", ylabel="BDMC gap, nats per image (± 2 s.e.)", ylim=(-0.1, None))
    axis.axhline(0.1, color="0.6", linewidth=0.8, linestyle=":")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    model, guide, elbo = trained(a)
    print(f"training ELBO {elbo:.2f} nats")
    seconds = rates(model, a)
    print(measure.table(seconds, "hmc"))
    found = gaps(model, guide, a)
    picture(found).savefig(Path(a.out, "bdmc.png"), dpi=110)
    measure.save(a.out, "bdmc", protocol=vars(a), elbo=elbo, seconds=seconds, gaps=found)


if __name__ == "__main__":
    main()
