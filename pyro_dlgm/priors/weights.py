r"""Priors of the weights of a network: a Bayesian w."""

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
        setattr(module, name, PyroSample(_Weights(f"{name}_loc", scale)))
    return net


class _Weights:
    r"""Creates the prior N(0, scale²) over an array of weights; a class, so that it can be pickled."""

    def __init__(self, loc: str, scale: float):
        self.loc, self.scale = loc, scale

    def __call__(self, module: nn.Module) -> dist.TorchDistribution:
        loc = getattr(module, self.loc)
        return dist.Normal(loc, self.scale).to_event(loc.dim())
