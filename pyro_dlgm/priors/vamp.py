r"""The variational mixture of posteriors as a prior: an encoder's q at pseudo-inputs."""

import contextlib

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..program import evaluating
from ..shared import Shared
from .mixture import Mixture


class VampPrior(Mixture):
    r"""Creates the prior p(t) = 1/K Σ_k q(t | u_k), the mean of an encoder's q over K learned pseudo-inputs u_k.

    The prior that maximizes the ELBO for a given q is the aggregate posterior 1/N Σ_i q(t | x_i); this one has K such
    terms instead of N. Its parameters are u and those of the encoder, φ, which p and q share.

    The guide is held outside the module tree, as `guides.Exact` holds its model: ``model.parameters()`` contains u but
    not φ, which the guide trains; a deep copy of model and guide together holds the copied guide, one of the model
    alone shares it. If another guide is trained, φ stays as it is. While the prior is in eval mode, so is the encoder
    that it calls. All K pseudo-inputs are encoded at each call.

    Arguments:
        guide: a guide without rows whose q has a density, such as `guides.Amortized`.
        pseudo_inputs: the initial u, (K, ...): points of the data.
        low, high: bounds to which values of u are clamped; `None`: no bound. For counts use ``low=0``. A value beyond a
            bound has no gradient.

    Attributes:
        pseudo_inputs: u, (K, ...), a parameter, before clamping.

    Raises:
        TypeError: if the guide has rows, or q no density.
        ValueError: if there are no pseudo-inputs, or they are not finite.

    References:
        Tomczak and Welling, "VAE with a VampPrior" (2018). https://arxiv.org/abs/1705.07120

    Example:
        >>> from pyro_dlgm import guides, nets
        >>> x, guide = torch.rand(20, 6), guides.Amortized(nets.MLP(6, 8), 2)
        >>> prior = VampPrior(guide, x[:5])
        >>> [name for name, _ in prior.named_parameters()], prior().event_shape
        (['pseudo_inputs'], torch.Size([2]))
    """

    def __init__(self, guide, pseudo_inputs: Tensor, *, low: float | None = None, high: float | None = None):
        super().__init__()
        _check(guide, pseudo_inputs)
        u = pseudo_inputs.detach().clone()
        self.pseudo_inputs = nn.Parameter(u if u.is_floating_point() else u.to(torch.get_default_dtype()))
        self._guide, self.low, self.high = Shared((guide,)), low, high

    @property
    def latent_dim(self) -> int:
        r"""The number of latents D."""
        return self._guide[0].latent_dim

    @property
    def num_components(self) -> int:
        r"""The number of pseudo-inputs K."""
        return len(self.pseudo_inputs)

    @property
    def inputs(self) -> Tensor:
        r"""The pseudo-inputs as the encoder sees them, (K, ...), clamped to their bounds."""
        u = self.pseudo_inputs
        return u if self.low is None and self.high is None else u.clamp(self.low, self.high)

    def weighted(self) -> tuple[Tensor, dist.TorchDistribution]:
        r"""Returns zeros (K,), since π_k = 1/K, and q(t | u_k), of batch shape (K,) and event shape (D,)."""
        guide = self._guide[0]
        with contextlib.nullcontext() if self.training or not guide.training else evaluating(guide):
            components = guide.posterior(self.inputs)
        return self.pseudo_inputs.new_zeros(self.num_components), components


def _check(guide, pseudo_inputs: Tensor) -> None:
    name = type(guide).__name__
    if not hasattr(guide, "posterior") or getattr(guide, "per_point", False) or not getattr(guide, "has_density", True):
        raise TypeError(
            f"guide is a {name}, which has no density q(t | u) for a new point u; expected a guide without rows whose "
            "q has one: guides.Amortized"
        )
    if not isinstance(pseudo_inputs, Tensor) or pseudo_inputs.dim() < 2 or len(pseudo_inputs) == 0:
        shape = getattr(pseudo_inputs, "shape", None)
        said = type(pseudo_inputs).__name__ if shape is None else f"of shape {tuple(shape)}"
        raise ValueError(f"pseudo_inputs is {said}; expected a tensor (K, ...) of points, such as x[:50]")
    if not bool(pseudo_inputs.isfinite().all()):
        raise ValueError("pseudo_inputs has values that are not finite; expected numbers: fill what is missing")
