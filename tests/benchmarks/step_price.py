r"""What a training step costs beside the same mathematics in a hand-written loop and in other libraries."""

import argparse
import copy
import itertools
import os
import tempfile

import measure
import peers
import pyro
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_dlgm import DLGM, SVI, guides, likelihoods, nets, priors
from pyro_dlgm.nets.convolution import Conv, ToImages, Up
from pyro_dlgm.optim.svi import adam

IMAGE, NUM_POINTS, LR = (1, 28, 28), 60_000, 1e-3
OURS, COMPILED, HAND = "pyro_dlgm.SVI", "pyro_dlgm.SVI, compiled", "hand-written"
BF16 = "bf16"  # of networks; log-densities are float32
LAST = "weights in channels last"
LIKE_OURS = f"{HAND}, layers of pyro_dlgm"
OF_TORCH = {Conv: nn.Conv2d, Up: nn.ConvTranspose2d, ToImages: nn.Linear}
FLOOR = "networks alone"


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Times one training step of a variational autoencoder: pyro_dlgm.SVI, eager and "
        "compiled; a hand-written loop with fused Adam and torch's layers; Pyro's stock SVI with its Adam and "
        "Trace_ELBO; the same with TraceMeanField_ELBO; the networks alone, forward and backward, as a floor; with "
        "networks in bfloat16 and log-densities in float32, ours and the hand-written one; of convolutions both "
        "with weights in channels last, and the hand-written one with the layers of pyro_dlgm; NumPyro and Pythae, in "
        "their own processes with as many threads, where they are installed. All have the same networks and take "
        "turns in rounds. Case mlp: 784-200-200-50 and back, batch 128, wanted eager <= 1.2, compiled <= 0.8. Case "
        "conv: the default convolutional networks, 64 latents, 28x28, batch 100, wanted <= 1.05 and <= 0.85, with "
        "bf16 <= 0.65 where the processor has units for it. The first step of each is timed apart: for the compiled "
        "one that is the time to compile, with an empty cache of the compiler, and in the first case with the "
        "compiler's own start.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which networks")
    parser.add_argument("--rounds", type=int, default=30, help="rounds in which the contenders take turns")
    parser.add_argument("--steps", type=int, default=40, help="steps of each contender in a round")
    parser.add_argument("--warmup", type=int, default=40, help="steps before the clock starts")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="other libraries as well")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and starting values")
    parser.add_argument("--out", default="runs/bench", help="folder for step_price.json")
    return parser.parse_args()


def mlp() -> tuple[nn.Module, nn.Module, int, int]:
    r"""Encoder and decoder of 784-200-200-50 and back, latents, and batch size."""
    encoder = nn.Sequential(nets.MLP(IMAGE, 200, hidden=(200,)), nn.ELU())
    return encoder, nets.MLP(50, IMAGE, hidden=(200, 200)), 50, 128


def conv() -> tuple[nn.Module, nn.Module, int, int]:
    r"""The default convolutional encoder and decoder for 28x28, latents, and batch size."""
    return nets.ConvEncoder(IMAGE), nets.ConvDecoder(64, IMAGE), 64, 100


CASES = {"mlp": mlp, "conv": conv}


class HandWritten(nn.Module):
    r"""Creates the same autoencoder without Pyro: copied layers of a model and a guide, and −F as one writes it.

    Arguments:
        model, guide: whose layers are copied.
        precision: of networks.
        ours: whether convolutions are those of pyro_dlgm; else they are torch's.
    """

    def __init__(self, model: DLGM, guide: guides.Amortized, precision: str | None = None, *, ours: bool = False):
        super().__init__()
        self.precision = precision
        self.encoder, self.decoder = (_bare(net, ours) for net in (guide.encoder, model.likelihood.net))
        self.head = copy.deepcopy(guide.head)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=LR, fused=True)

    def forward(self, x: Tensor) -> Tensor:
        with self._rounded(x):
            raw = self.head(self.encoder(x))
        m, log_s = raw.float().chunk(2, -1)
        s = log_s.exp()
        with self._rounded(x):
            logits = self.decoder(m + s * torch.randn_like(s))
        logits = logits.float()
        kl = 0.5 * (m.square() + s.square() - 1).sum() - log_s.sum()
        return (F.binary_cross_entropy_with_logits(logits.view_as(x), x, reduction="sum") + kl) / len(x)

    def _rounded(self, x: Tensor):
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision is not None)

    def step(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self(x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def _bare(net: nn.Module, ours: bool) -> nn.Module:
    r"""A copy of the layers alone, without the flattening and restoring of leading axes around them."""
    if isinstance(net, nn.Sequential):
        return nn.Sequential(*(_bare(part, ours) for part in net))
    layers = copy.deepcopy(net.body if isinstance(net, nets.Net) else net)
    return layers if ours else _of_torch(layers)


def _of_torch(layers: nn.Module) -> nn.Module:
    r"""The same layers, with torch's own computation."""
    for name, layer in list(layers.named_modules()):
        if isinstance(layer, ToImages):
            layers[int(name) + 1] = nn.Unflatten(1, layer.image_shape)
        layer.__class__ = OF_TORCH.get(type(layer), type(layer))
    return layers


def pair(case: str, device: str = "cpu") -> tuple[DLGM, guides.Amortized, list[tuple[Tensor, Tensor]]]:
    r"""Model, guide and fifty batches (x, index)."""
    encoder, decoder, latents, batch = CASES[case]()
    model = DLGM(priors.StandardNormal(latents), likelihoods.Bernoulli(decoder)).to(device)
    data = [(torch.bernoulli(torch.full((batch, *IMAGE), 0.13)), torch.randperm(NUM_POINTS)[:batch]) for _ in range(50)]
    guide = guides.Amortized(encoder, latents).to(device)
    return model, guide, [(x.to(device), index.to(device)) for x, index in data]


def contenders(
    case: str, device: str = "cpu", backend: bool | str = True, *, stock: bool = True
) -> dict[str, measure.Step]:
    r"""The ways to take a step on the next batch (x, index), from the same starting values."""
    model, guide, data = pair(case, device)
    steps = {}
    for name, precision in ((HAND, None), (f"{HAND}, {BF16}", BF16)):
        steps[name] = on(data, _by_hand(HandWritten(model, guide, precision)))
    images = any(p.dim() == 4 for p in model.parameters())
    if images:
        steps[f"{HAND}, {LAST}"] = on(data, _by_hand(HandWritten(*_channels_last(model, guide))))
        steps[LIKE_OURS] = on(data, _by_hand(HandWritten(model, guide, ours=True)))
    for loss in (Trace_ELBO(), TraceMeanField_ELBO()) if stock else ():
        svi = pyro.infer.SVI(*map(copy.deepcopy, (model, guide)), pyro.optim.Adam({"lr": LR}), loss)
        steps[f"stock SVI, {type(loss).__name__}"] = on(data, svi.step)
    for name, ways in {OURS: {}, **({COMPILED: {"compile": backend}} if backend else {})}.items():
        for precision in (None, BF16):
            copied = copy.deepcopy((model, guide))
            named = name if precision is None else f"{name}, {precision}"
            steps[named] = on(data, _ours(*copied, **ways, precision=precision))
        if images:
            steps[f"{name}, {LAST}"] = on(data, _ours(*_channels_last(model, guide), **ways))
    return steps | {FLOOR: on(data, _products(HandWritten(model, guide, ours=True)))}


def _channels_last(*parts: nn.Module) -> list[nn.Module]:
    return [part.to(memory_format=torch.channels_last) for part in copy.deepcopy(parts)]


def _by_hand(hand: HandWritten):
    return lambda x, index: hand.step(x)


def _products(hand: HandWritten):
    r"""The matrix products of a step alone, forward and backward: what no program that computes them can go below.

    Of convolutions it is the layers with their gradients, without distribution, loss and optimizer.
    """

    def step(x: Tensor, index: Tensor) -> None:
        features = hand.head(hand.encoder(x))
        hand.decoder(features[:, : features.shape[-1] // 2]).sum().backward()
        hand.zero_grad(set_to_none=True)

    return step


def _ours(model: DLGM, guide: guides.Guide, **ways):
    svi = SVI(model, guide, adam(model, guide, lr=LR), check_every=1, **ways)
    return lambda x, index: svi.step(x, index, mask=None, size=NUM_POINTS, factor=1 / NUM_POINTS)


def on(data: list[tuple[Tensor, Tensor]], step) -> measure.Step:
    r"""Returns the step on the next batch, without arguments."""
    batches = itertools.cycle(data)
    return lambda: step(*next(batches))


def measured(case: str, a: argparse.Namespace) -> dict:
    r"""Seconds of the first step of each contender, and of the steps in rounds, printed as a table."""
    torch.manual_seed(a.seed)
    beside = peers.started(case, a.seed, torch.get_num_threads()) if a.peers else {}
    steps = contenders(case) | beside
    first = {name: measure.seconds(step, 1) for name, step in steps.items()}
    found = measure.rounds(steps, num_rounds=a.rounds, steps=a.steps, warmup=a.warmup)
    for name, peer in beside.items():
        peer.end()
        print(f"{name}: {peer.said['off']:+.1e} nats from the hand-written loss at the same weights and noise")
    print(f"{case}\n{measure.table(found, HAND, first)}\n")
    ratios = {name: measure.ratio(values, found[HAND]) for name, values in found.items()}
    said = {name: peer.said for name, peer in beside.items()}
    return {"seconds_of_first_step": first, "seconds_per_step": found, "ratio_to_hand_written": ratios, "peers": said}


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # else a second run would find what the first one compiled
        result = {case: measured(case, a) for case in a.cases}
    print("written:", measure.save(a.out, "step_price", seed=a.seed, protocol=vars(a), result=result))


if __name__ == "__main__":
    main()
