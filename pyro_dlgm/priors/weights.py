r"""Priors of the weights of a network: a Bayesian w."""

from functools import partial

import pyro.distributions as dist
import torch
from pyro.nn import PyroSample
from pyro.nn.module import to_pyro_module_
from torch import nn


def bayesian(net: nn.Module, scale: float = 1.0) -> nn.Module:
    r"""Puts the prior N(0, scale²) on each weight of a network, in place, and returns the network.

    Its weights are then global latents: `DLGM` draws them once, before the plate, and a guide has to sample them as
    well. Site names are places in the program, such as "likelihood.net.body.1.weight". `nets.Linear` and `nets.MLP`
    take vectorized particles of weights; other networks take one draw at a time.

    Arguments:
        net: any module with parameters.
        scale: the standard deviation of the prior.

    Raises:
        ValueError: unless the scale is above 0 and the network has parameters.

    Example:
        >>> from pyro_dlgm import DLGM, likelihoods, nets, priors
        >>> model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(bayesian(nets.Linear(2, 5))))
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
        setattr(module, name, PyroSample(partial(_prior, loc=f"{name}_loc", scale=scale)))
    return net


def _prior(module: nn.Module, loc: str, scale: float) -> dist.TorchDistribution:
    r"""Returns the prior N(0, scale²) over an array of weights."""
    zeros = getattr(module, loc)
    return dist.Normal(zeros, scale).to_event(zeros.dim())
