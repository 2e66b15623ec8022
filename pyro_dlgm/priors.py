r"""Priors p(t): modules whose call returns a distribution of event shape (D,). Priors of a Bayesian w."""

import inspect

import pyro.distributions as dist
import torch
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn


class StandardNormal(nn.Module):
    r"""Creates the prior p(t) = N(0, I) over t ∈ ℝᴰ.

    Arguments:
        latent_dim: the number of latents D.

    Example:
        >>> StandardNormal(2)().event_shape
        torch.Size([2])
    """

    def __init__(self, latent_dim: int):
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; expected at least 1 latent")
        self.latent_dim = latent_dim
        # Buffers, so that the distribution follows .to(device, dtype).
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self, given: Tensor | None = None) -> dist.TorchDistribution:
        r"""Returns p(t), of batch shape () and event shape (D,), whatever is given."""
        return dist.Normal(self.loc, self.scale).to_event(1)


def needs_given(prior: nn.Module) -> bool:
    r"""Whether p(t) depends on what is given, so that there is none without."""
    given = inspect.signature(prior.forward).parameters.get("given")
    return given is not None and given.default is given.empty


def bayesian(net: nn.Module, scale: float = 1.0) -> nn.Module:
    r"""Puts the prior N(0, scale²) on each weight of a network, in place, and returns the network.

    Its weights are global latents then: `DLGM` draws them once, before the plate, and a guide has to sample them as
    well. Site names are places in the program, "likelihood.net.body.1.weight". `nets.Linear` and `nets.MLP` take
    vectorized particles of weights; other networks one draw at a time.

    Arguments:
        net: any module with parameters.
        scale: the standard deviation of the prior.

    Raises:
        ValueError: unless the scale is above 0 and the network has parameters.

    Example:
        >>> from pyro_dlgm import DLGM, likelihoods, nets
        >>> model = DLGM(StandardNormal(2), likelihoods.FixedNormal(bayesian(nets.Linear(2, 5))))
        >>> [name for name, _ in model.named_parameters()]
        ['likelihood.u']
    """
    if not scale > 0:
        raise ValueError(f"scale is {scale}; expected a number > 0")
    weights = [(m, name, p) for m in net.modules() for name, p in m.named_parameters(recurse=False)]
    if not weights:
        raise ValueError(f"{type(net).__name__} has no parameters to put a prior on; expected a network with weights")
    to_pyro_module_(net)
    for module, name, weight in weights:
        # A buffer, so that the distribution follows .to(device, dtype).
        module.register_buffer(f"{name}_loc", torch.zeros_like(weight, requires_grad=False), persistent=False)
        setattr(module, name, PyroSample(_Weights(f"{name}_loc", scale)))
    return net


class _Weights:
    r"""Creates the prior N(0, scale²) over an array of weights; a class, so that it can be pickled."""

    def __init__(self, loc: str, scale: float):
        self.loc, self.scale = loc, scale

    def __call__(self, module: nn.Module) -> dist.TorchDistribution:
        loc = getattr(module, self.loc)
        return dist.Normal(loc, self.scale).to_event(loc.dim())
