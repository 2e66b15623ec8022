r"""Wrappers for decoders and encoders from elsewhere: frozen, with any leading shape."""

import copy
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..guides.amortized import SCALING, Amortized
from ..guides.base import Guide
from ..guides.families import mean_field
from ..likelihoods.base import Likelihood, heads
from ..masks import filled
from ..nets.net import Net

SPREADS: dict[str, Callable[[Tensor], Tensor]] = {
    "log_variance": lambda v: 0.5 * v,
    "log_scale": lambda v: v,
    "variance": lambda v: 0.5 * v.log(),
    "scale": torch.log,
}  # to log s


def parts(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    r"""Returns the output of a module as a tuple of tensors."""
    return (y,) if isinstance(y, Tensor) else tuple(y)


class Frozen(nn.Module):
    r"""Creates a copy of a module without gradients, which always stays in eval mode."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "Frozen":
        r"""Stays in eval mode."""
        return super().train(False)

    def forward(self, v: Tensor):
        return self.module(v)


class Decoder(Net):
    r"""Creates a network from a decoder from elsewhere: leading axes of codes are flattened, and restored afterwards.

    Arguments:
        body: the decoder, from (n, D) to one tensor or a pair, in any shape with the right number of elements.
        latent_dim: the number D.
        out_shape: the shape of a point.
        count: the number of tensors it returns.
    """

    def __init__(self, body: nn.Module, latent_dim: int, out_shape: tuple[int, ...], count: int):
        super().__init__(latent_dim, out_shape, body, count)

    def _headed(self, y, lead, dim: int):
        made = tuple(h.reshape(*lead, *self.out_shape) for h in parts(y))
        return made if self.heads > 1 else made[0]


class Probabilities(nn.Module):
    r"""Creates a network of logits from a network of probabilities, clamped away from 0 and 1 by rounding."""

    def __init__(self, net: Decoder):
        super().__init__()
        self.net, self.in_shape, self.out_shape, self.heads = net, net.in_shape, net.out_shape, 1

    def forward(self, v: Tensor) -> Tensor:
        p = self.net(v)
        return p.logit(torch.finfo(p.dtype).eps)


class Spread(Likelihood):
    r"""Creates p(x | t) = N(μ(t), diag s²(t)) from a network that returns μ and s, in one of the forms of `SPREADS`."""

    def __init__(self, net: nn.Module, spread: str):
        super().__init__()
        self.net, self.spread = net, spread

    def pixels(self, t: Tensor) -> dist.Normal:
        mu, v = heads(self.net(t), 2, "two, mean and spread")
        return dist.Normal(mu, SPREADS[self.spread](v).exp())


class Encoded(Amortized):
    r"""Creates q(t | x) = N(m(x), diag s²(x)) from an encoder from elsewhere that returns m and s.

    Arguments:
        encoder: a module from x (B, ...) to a pair of tensors (B, D).
        latent_dim: the number D.
        spread: the form of s, a key of `SPREADS`.
    """

    def __init__(self, encoder: nn.Module, latent_dim: int, spread: str = "log_variance"):
        Guide.__init__(self)
        self.encoder, self.latent_dim, self.spread_form = encoder, latent_dim, spread
        self.family, self.given_dim, self.mask_input = mean_field, 0, False
        for name in SCALING:
            self.register_buffer(name, None)

    def raw(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> Tensor:
        r"""Returns the raw numbers of q, (B, 2D): m, and log s."""
        m, v = self.encoder(filled(x, mask)[0])
        return torch.cat([m.flatten(1), SPREADS[self.spread_form](v.flatten(1))], 1)

    def prepare(self, look) -> None:
        r"""Does nothing: the encoder is trained already."""
