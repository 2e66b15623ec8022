r"""NumPyro's step for `peers`: `svi.update` compiled by `jax.jit`, or `lax.scan` over such steps."""

import itertools
import os

import peers
import torch
from step_price import LR
from torch import nn

a = peers.asked()
# XLA takes as many threads as the process may use processors.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.threads])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import measure  # noqa: E402
import numpyro  # noqa: E402
import numpyro.distributions as dist  # noqa: E402
from numpyro.infer import SVI, TraceMeanField_ELBO  # noqa: E402


def layer(v, module: nn.Module, weights):
    r"""One layer of torch in jax."""
    match module:
        case nn.Linear():
            return v @ weights[0].T + weights[1]
        case nn.Conv2d():
            return convolved(v, weights, module.padding, strides=module.stride)
        case nn.ConvTranspose2d():
            flipped = jnp.flip(weights[0], (2, 3)).swapaxes(0, 1)
            outer = [k - 1 - p for k, p in zip(module.kernel_size, module.padding, strict=True)]
            return convolved(v, (flipped, weights[1]), outer, dilation=module.stride)
        case nn.ELU():
            return jax.nn.elu(v)
        case nn.GELU():
            return jax.nn.gelu(v, approximate=False)
        case nn.Identity():
            return v
        case nn.Flatten():
            return v.reshape(len(v), -1)
        case nn.Unflatten():
            return v.reshape(len(v), *module.unflattened_size)
    raise TypeError(f"no layer of jax for {module}")


def convolved(v, weights, padding, strides=(1, 1), dilation=(1, 1)):
    r"""The convolution of images (B, C, H, W); with a dilation of the image it is the transposed one."""
    both, ways = [(p, p) for p in padding], ("NCHW", "OIHW", "NCHW")
    made = jax.lax.conv_general_dilated(v, weights[0], strides, both, dilation, dimension_numbers=ways)
    return made + weights[1][:, None, None]


def network(name: str, net: nn.Module):
    r"""The function of a network, whose weights are parameters of the program, with those of torch as first values."""
    layers = [m for m in net.modules() if not list(m.children())]

    def apply(v):
        for k, module in enumerate(layers):
            weights = [
                numpyro.param(f"{name}.{k}.{key}", jnp.asarray(p.detach().numpy()))
                for key, p in module.named_parameters()
            ]
            v = layer(v, module, weights)
        return v

    return apply


def program(hand):
    r"""Model and guide of the autoencoder."""
    encode, decode = network("encoder", nn.Sequential(hand.encoder, hand.head)), network("decoder", hand.decoder)
    D = hand.head.out_features // 2

    def model(x):
        with numpyro.plate("data", len(x)):
            t = numpyro.sample("t", dist.Normal(0, 1).expand([D]).to_event(1))
            logits = decode(t).reshape(x.shape)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(x):
        m, log_s = jnp.split(encode(x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("t", dist.Normal(m, jnp.exp(log_s)).to_event(1))

    return model, guide, lambda x, noise: (v := jnp.split(encode(x), 2, -1))[0] + jnp.exp(v[1]) * noise


def at(svi: SVI, state, model, guide, draw, x, noise) -> float:
    r"""The loss at given noise, in nats per point."""
    params = svi.get_params(state)
    t = numpyro.handlers.substitute(draw, params)(x, noise)
    held = numpyro.handlers.substitute(guide, {"t": t})
    return float(TraceMeanField_ELBO().loss(jax.random.PRNGKey(0), params, model, held, x)) / len(x)


def main() -> None:
    hand, x, noise, expected = peers.same_start(a)
    (model, guide, draw), data = program(hand), jnp.asarray(x.numpy())
    svi = SVI(model, guide, numpyro.optim.Adam(LR), TraceMeanField_ELBO())
    state = svi.init(jax.random.PRNGKey(a.seed), data[0])
    off = peers.check(at(svi, state, model, guide, draw, data[0], jnp.asarray(noise.numpy())), expected)
    update, batches, place = jax.jit(svi.update), itertools.cycle(list(data)), 0
    scan = jax.jit(lambda state, data, which: jax.lax.scan(lambda s, k: svi.update(s, data[k]), state, which))

    def steps(count: int) -> float:
        nonlocal state, place
        if a.way == "scan":
            state, losses = scan(state, data, (place + jnp.arange(count)) % len(data))
            place += count
            return float(losses[-1]) / data.shape[1]
        for _ in range(count):
            state, loss = update(state, next(batches))
        return float(loss) / data.shape[1]

    versions = {"jax": jax.__version__, "numpyro": numpyro.__version__, "torch": torch.__version__}
    measure.serve(steps, versions=versions, off=off)


if __name__ == "__main__":
    main()
