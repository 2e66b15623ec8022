r"""The generative model, written once: t ~ p(t), x ~ p(x | t, w)."""

import contextlib

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn
from torch.distributions import Distribution

from .latents.held import Emitting, Held
from .likelihoods.protocol import check_parts
from .likelihoods.support import densities, of_points, supported
from .masks import filled
from .nets.net import shapes_checked
from .points import side
from .priors.given import needs_given
from .program import Program, unregistered
from .seeding import forked

FEW = 100  # points at which `datum` of a subclass is checked


class DLGM(Program):
    r"""Creates the deep latent Gaussian model p(x | w) = ∫ p(x | t, w) p(t) dt as a Pyro program.

    Arguments:
        prior: a module; ``prior()`` returns p(t), of event shape (D,).
        likelihood: a module; ``likelihood(t, mask)`` returns p(x | t, w).
        latent, observed, plate: names of the two sites and of the plate over data.

    Its parameters w are ``model.parameters()``. For q, use any guide of `pyro_dlgm.guides`, one of Pyro's, or your own.

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
        check_parts(prior, likelihood)
        self.prior, self.likelihood = prior, likelihood
        self.latent, self.observed = latent, observed

    def forward(
        self,
        x: Tensor | None = None,
        index: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        given: Tensor | None = None,
        weight: Tensor | None = None,
        size: int | None = None,
    ):
        r"""Samples t and x for each point of the plate, and returns x.

        Arguments:
            x: observed data (B, ...), or `None` to generate.
            index: which points these are (B,); the model only passes it to the plate.
            mask: boolean, True where observed, of x's shape or (B,).
            given: what p(t) and p(x | t) are conditioned on, (B, C).
            weight: factors (B,) of the points' log-densities.
            size: the number N of all points, which scales a batch by N/B; without x, the number to generate.
        """
        with self.data_plate(x, index, size), self.weighted(x, index, size, given=given, weight=weight):
            return self.datum(x, mask, **side(given))

    def datum(
        self, x: Tensor | None = None, mask: Tensor | None = None, *, given: Tensor | None = None, t=None
    ) -> Tensor:
        r"""Samples t and x without the plate over data, for larger programs with their own plates.

        Under Pyro's SVI its parameters train even if a plain function calls it. A program with a Bayesian w enters
        `global_latents` before its plates.

        Arguments:
            x: observed data of the shape (..., *event), or `None` to generate.
            mask: boolean, of x's shape or (B,).
            given: what p(t) and p(x | t) are conditioned on, (..., C).
            t: codes (..., D), if the larger program has drawn them: then only x is sampled, given t.
        """
        x, mask = filled(x, mask)
        with self.global_latents():
            if t is None:
                prior = self.prior_of(given)
                t = self._code(pyro.sample(self.latent, prior), prior)
            p = self.likelihood(t, mask, **side(given))
            return pyro.sample(self.observed, p, obs=None if x is None else supported(p, x, self.likelihood))

    def prior_of(self, given: Tensor | None = None):
        r"""Returns p(t), or p(t | c) if c is given.

        Raises:
            ValueError: if the prior depends on ``given`` and there is none.
        """
        if given is None and needs_given(self.prior):
            raise ValueError(
                f"{type(self.prior).__name__} depends on what is given, and got none; expected given=, with a row for "
                "each point"
            )
        return self.prior(**side(given))

    def check(self, x: Tensor, *, given: Tensor | None = None, first: int = 0) -> None:
        r"""Raises a `ValueError` unless x (B, ...) has the shape, dtype and support of the likelihood.

        The error names the rows outside the support, counted from ``first``. For a subclass that overrides `datum`,
        the check runs `datum` on the first 100 points.
        """
        if type(self).datum is not DLGM.datum:
            return self._check_by_datum(x[:FEW], given)
        with pyro.validation_enabled(), torch.no_grad(), forked(), self.global_latents():
            t, p = self._at_a_code(given)
            supported(p.expand((len(x),)) if len(x) else p, x, self.likelihood, first)
        if x.is_floating_point() and x.dtype != t.dtype:
            raise ValueError(
                f"x has dtype {x.dtype}; this model has {t.dtype}: use x.to({t.dtype}), of an array x.astype, or "
                f"model.to({x.dtype})"
            )

    def densities(self, *, given: Tensor | None = None) -> list[tuple[list[int] | None, str, bool]]:
        r"""Returns the columns of x for which the likelihood is a density of real numbers or of amounts >= 0.

        They come in triples: columns, `None` for all; the name of their likelihood; whether it takes numbers below 0.

        For a subclass that overrides `datum` there are none.

        Arguments:
            given: what p(x | t) is conditioned on, (B, C); the first row is taken.
        """
        if type(self).datum is not DLGM.datum:  # what it emits is not the likelihood alone
            return []
        with torch.no_grad(), forked(), self.global_latents():
            return densities(self._at_a_code(given)[1], self.likelihood)

    def _at_a_code(self, given: Tensor | None) -> tuple[Tensor, Distribution]:
        r"""Returns a code t (1, D) of the prior, and p(x | t)."""
        one = {name: value[:1] for name, value in side(given).items()}
        t = self.prior_of(one.get("given"))((1,))  # a draw: a prior may have no mean
        t = t.squeeze(0) if t.dim() > 2 else t
        what = f"the likelihood {type(self.likelihood).__name__}"
        with shapes_checked(what, t.shape, f"a network that decodes t (B, {t.shape[-1]}), the prior's latents"):
            return t, of_points(self.likelihood(t, **one), self.likelihood)

    def _check_by_datum(self, x: Tensor, given: Tensor | None) -> None:
        some = {name: value[: len(x)] for name, value in side(given).items()}
        quietly = pyro.validation_enabled(), torch.no_grad(), forked(), poutine.block(), self.global_latents()
        with contextlib.ExitStack() as stack:
            for context in (*quietly, pyro.plate(self.plate, len(x), dim=-1)):
                stack.enter_context(context)
            self.datum(x, **some)

    def log_joint(self, x: Tensor, t: Tensor, mask: Tensor | None = None, *, given: Tensor | None = None) -> Tensor:
        r"""Returns log p(x, t | w) of each point, in nats: the log-density of all sites of `datum` with t fixed.

        Arguments:
            x: data (B, ...).
            t: codes (..., B, D).
            mask: boolean, of x's shape or (B,).
            given: what p(t) and p(x | t) are conditioned on, (B, C).

        Returns:
            A tensor of shape (..., B), without the scales of the plate, weights and handlers.

        Raises:
            ValueError: if `datum` samples a further latent, whose draw would be used silently.
        """
        # Outside a larger program, nothing reads the parameters from Pyro's store.
        registering = contextlib.nullcontext() if am_i_wrapped() else unregistered()
        with registering, Held(self.latent, t) as held, self.global_latents():
            held.sites.clear()  # the log-densities of a Bayesian w belong to no point
            self.datum(x, mask, **side(given))
        return held.log_joint(self.observed)

    def emission(self, t: Tensor, *, given: Tensor | None = None):
        r"""Returns p(x | t, w) as `datum` defines it, with t fixed; no further latent is drawn.

        Arguments:
            t: codes (..., D).
            given: what p(x | t) is conditioned on, (..., C).
        """
        with Emitting(self.latent, t, self.observed) as emitting, self.global_latents():
            self.datum(**side(given))
        return emitting.found

    def _code(self, t: Tensor, prior) -> Tensor:
        r"""Returns t after checking its number of latents."""
        if t.shape[-1:] != prior.event_shape:
            (D,) = prior.event_shape
            raise ValueError(
                f"{self.latent} has shape {tuple(t.shape)}; expected codes (..., {D}), the model's latents: "
                f"build the guide with latent_dim={D}"
            )
        return t
