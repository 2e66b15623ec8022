r"""The generative model, written once: t ~ p(t), x ~ p(x | t, w)."""

import pyro
import torch
from pyro.distributions import constraints
from pyro.distributions.util import is_validation_enabled
from pyro.nn import pyro_method
from torch import Tensor, nn

from . import messages
from .masks import filled
from .program import Program


class DLGM(Program):
    r"""Creates the deep latent Gaussian model p(x | w) = ∫ p(x | t, w) p(t) dt as a Pyro program.

    Arguments:
        prior: a module; ``prior()`` returns p(t), of event shape (D,).
        likelihood: a module; ``likelihood(t, mask)`` returns p(x | t, w).
        latent, observed, plate: names of the two sites and of the plate over data.

    Its parameters w are ``model.parameters()``. Its q is not here: any guide of `pyro_dlgm.guides`, any of Pyro's,
    or one's own goes with it.

    References:
        Rezende, Mohamed, Wierstra, "Stochastic backpropagation and approximate inference in deep generative models"
        (2014). https://arxiv.org/abs/1401.4082

    Example:
        >>> from pyro_dlgm import likelihoods, nets, priors
        >>> model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.Linear(2, 5)))
        >>> model(size=3).shape
        torch.Size([3, 5])
    """

    def __init__(self, prior: nn.Module, likelihood: nn.Module, *, latent="t", observed="x", plate="data"):
        super().__init__(plate=plate)
        self.prior, self.likelihood = prior, likelihood
        self.latent, self.observed = latent, observed

    def forward(self, x: Tensor | None = None, index: Tensor | None = None, *, mask=None, size: int | None = None):
        r"""Samples t and x for each point of the plate, and returns x.

        Arguments:
            x: observed data (B, ...), or `None` to generate.
            index: which points these are (B,); the model only passes it to the plate.
            mask: boolean, True where observed, of x's shape or (B,).
            size: the number N of all points, which scales a batch by N/B; without x, the number to generate.
        """
        with self.data_plate(x, index, size):
            return self.datum(x, mask)

    @pyro_method
    def datum(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        r"""Samples t and x without the plate over data, for larger programs with plates of their own.

        Arguments:
            x: observed data of the shape (..., *event), or `None` to generate.
            mask: boolean, of x's shape or (B,).
        """
        x, mask = filled(x, mask)
        prior = self.prior()
        p = self.likelihood(self._code(pyro.sample(self.latent, prior), prior), mask)
        return pyro.sample(self.observed, p, obs=None if x is None else self._checked(p, x))

    def check(self, x: Tensor) -> None:
        r"""Raises a `ValueError` unless x (B, ...) has the likelihood's shape and the model's dtype, and lies in its
        support; it names the rows that do not.
        """
        with pyro.validation_enabled(), torch.no_grad():
            t = self.prior().mean.unsqueeze(0)
            p = self.likelihood(t)
            self._checked(p.expand((len(x),)) if len(x) else p, x)
        if x.is_floating_point() and x.dtype != t.dtype:
            raise ValueError(
                f"x has dtype {x.dtype}; this model has {t.dtype}: use x.to({t.dtype}), or model.to({x.dtype})"
            )

    def log_joint(self, x: Tensor, t: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""log p(x, t | w) for each point, in nats.

        Arguments:
            x: data (B, ...).
            t: codes (..., B, D).
            mask: boolean, of x's shape or (B,).

        Returns:
            A tensor of shape (..., B).
        """
        x, mask = filled(x, mask)
        prior = self.prior()
        p = self.likelihood(self._code(t, prior), mask)
        return prior.log_prob(t) + p.log_prob(self._checked(p, x))

    def _code(self, t: Tensor, prior) -> Tensor:
        r"""t, with its number of latents checked."""
        if t.shape[-1:] != prior.event_shape:
            (D,) = prior.event_shape
            raise ValueError(
                f"{self.latent} has shape {tuple(t.shape)}; expected codes (..., {D}), the model's latents: "
                f"build the guide with latent_dim={D}"
            )
        return t

    def _checked(self, p, x: Tensor) -> Tensor:
        r"""x, with its shape checked, and its support where Pyro's validation is on."""
        if x.dim() and len(x) == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}: there are no points; expected at least one")
        batch = x.dim() - len(p.event_shape)
        # x may lack leading axes of t (particles), but not its last one, and it has none that multiplies the points.
        fits = batch >= min(1, len(p.batch_shape)) and x.shape[batch:] == p.event_shape
        if not (fits and x.shape[:batch] == p.batch_shape[len(p.batch_shape) - batch :]):
            raise ValueError(
                f"x has shape {tuple(x.shape)}; this likelihood expects points of shape {tuple(p.event_shape)}, "
                f"that is (B, {', '.join(map(str, p.event_shape))}), here with B = {tuple(p.batch_shape[-1:])}: "
                "reshape x, or build the network for its shape"
            )
        if is_validation_enabled():
            _check_type(p, x)
            self._check_support(p, x)
        return x

    def _check_support(self, p, x: Tensor) -> None:
        inside, finite = p.support.check(x), x.isfinite()
        outside = f"x has values outside the support of {type(self.likelihood).__name__} in"
        if not bool(finite.all()):
            bad = ~finite.flatten(x.dim() - len(p.event_shape)).all(-1) if p.event_shape else ~finite
            raise ValueError(
                f"{outside} {_rows(bad)}, NaN or infinite ones; expected finite numbers: mask them, or drop the rows"
            )
        if not bool(inside.all()):
            raise ValueError(
                f"{outside} {_rows(~inside)} (x goes from {x.min():g} to {x.max():g}): "
                "binarize x (data.Binarize), put it on the grid of the likelihood (data.Grid), choose a likelihood for "
                "such values (FixedNormal, ContinuousBernoulli, DiscretizedLogistic), or mask them"
            )


def _check_type(p, x: Tensor) -> None:
    r"""Raises a `ValueError` unless x has a real type; a whole one only where p is one of counts."""
    support = p.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    counts = support.is_discrete and support is not constraints.boolean
    if x.dtype == torch.bool or x.is_complex() or not (x.is_floating_point() or counts):
        raise ValueError(f"x has dtype {x.dtype}; expected real numbers: use x.float(), or a transform (data.Grid)")


def _rows(bad: Tensor) -> str:
    r"""Names the points, along the last axis, that are bad."""
    return messages.rows(bad.nonzero()[:, -1].unique().tolist() if bad.dim() else [])
