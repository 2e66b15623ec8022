r"""Probabilistic PCA, the linear case: p(x | t, w) = N(W t + μ, σ² I). Everything is exact.

With M = WᵀW + σ² I (D x D), posterior and evidence are

    p(t | x, w) = N(M⁻¹ Wᵀ (x − μ), σ² M⁻¹),      p(x | w) = N(μ, W Wᵀ + σ² I),

and everything is computed through M, in float64 whatever the dtype of the model is: no P x P matrix is built. For a
missing pixel, its row is dropped from W and x.

References:
    Tipping and Bishop, "Probabilistic principal component analysis" (1999). JRSS B 61(3).
    Ilin and Raiko, "Practical approaches to principal component analysis in the presence of missing values" (2010).
    https://www.jmlr.org/papers/v11/ilin10a.html
"""

import math
import warnings

import pyro.distributions as dist
import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor

from ..likelihoods.normal import FixedNormal
from ..masks import filled, observed
from ..model import DLGM
from ..nets.net import Linear
from ..priors.normal import StandardNormal
from ..seeding import forked
from ..storage.sums import sums_dtype, widened
from . import closed_form, em
from .posterior import Posterior


class PPCA(DLGM):
    r"""Creates probabilistic PCA: a `DLGM` with linear μ, one σ, and closed forms instead of samples.

    `PPCA.fit` creates one from data by maximum likelihood. ``W`` (P, D) and ``mu`` (P,) are parameters, ``sigma2`` is
    computed from one. Nothing derived is cached, so all gradients are always correct.

    Arguments:
        latent_dim: the number of latents D.
        num_features: the number of features P.
        scale: the initial σ.
    """

    def __init__(self, latent_dim: int, num_features: int, scale: float = 1.0):
        super().__init__(StandardNormal(latent_dim), FixedNormal(Linear(latent_dim, num_features), scale, floor=0.0))

    @property
    def W(self) -> Tensor:
        r"""The loadings W, of shape (P, D)."""
        return self.likelihood.net.body[-1].weight

    @property
    def mu(self) -> Tensor:
        r"""The mean μ, of shape (P,)."""
        return self.likelihood.net.body[-1].bias

    @property
    def sigma2(self) -> Tensor:
        r"""The noise variance σ², a scalar."""
        return self.likelihood.scale.square()

    def _posterior(self, x: Tensor, mask: Tensor | None) -> Posterior:
        if not isinstance(self.prior, StandardNormal):
            raise TypeError(
                f"the prior of this PPCA is a {type(self.prior).__name__}, but the closed forms hold for N(0, I); "
                "expected priors.StandardNormal: for another prior make a DLGM, with another guide than Exact"
            )
        x, mask = filled(x, mask)
        self._check_points(x)
        return Posterior(self.W, self.mu, self.likelihood.u, x, mask)

    def _check_points(self, x: Tensor) -> None:
        mu = self.mu
        # Without this check, x with one pixel would broadcast.
        if x.shape[-1:] != mu.shape:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; expected (B, {len(mu)}), points of {len(mu)} features: "
                "use x.flatten(1) on images"
            )
        if x.dtype != mu.dtype:
            raise ValueError(f"x has dtype {x.dtype}; this model has {mu.dtype}: use x.to({mu.dtype})")
        if is_validation_enabled() and not bool(x.isfinite().all()):
            raise ValueError("x has NaN or infinite values; expected finite numbers: mask them, mask=~x.isnan()")

    def posterior(self, x: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> dist.MultivariateNormal:
        r"""Returns p(t | x, w) = N(M⁻¹ Wᵀ (x − μ), σ² M⁻¹), of batch shape (B,) and event shape (D,).

        Arguments:
            x: data (B, P).
            mask: boolean, True where observed, (B, P) or (B,).
            given: must be `None`: PPCA is not conditioned on anything.

        Raises:
            ValueError: if x does not fit the model, or ``given`` is not `None`.
            TypeError: if the prior was replaced by another one than N(0, I).
        """
        if given is not None:
            raise ValueError("PPCA conditions on nothing; expected no given: use a DLGM whose network decodes [t | c]")
        q = self._posterior(x, mask)
        return dist.MultivariateNormal(q.mean.to(x), scale_tril=q.scale_tril.to(x))

    def log_prob(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Returns the exact evidence log p(x | w) of each point over its observed pixels, (B,), in nats.

        `Posterior.log_prob` computes it in float64; it is returned in the dtype of the model. Arguments and errors are
        those of `posterior`.
        """
        return self._posterior(x, mask).log_prob().to(x)

    @classmethod
    @torch.no_grad()
    def fit(
        cls, X: Tensor, latent_dim: int, *, mask: Tensor | None = None, tol: float = 1e-9, max_steps: int = 10_000
    ) -> "PPCA":
        r"""Creates the maximum-likelihood PPCA of X: in closed form if X is complete, else by EM.

        Closed form (Tipping and Bishop, equations 7 and 8): W = U_D (Λ_D − σ² I)^½ with the leading eigenpairs of the
        covariance (1/N), σ² the mean of the other P − D eigenvalues. The rotation is that of PCA (R = I).

        Arguments:
            X: data (N, P); NaN means missing.
            latent_dim: the number of latents D, 1 <= D < P.
            mask: boolean, True where observed, (N, P).
            tol: EM stops when a step gains less than this, in nats per point.
            max_steps: after this number of steps EM stops with a warning.

        Raises:
            ValueError: if X is not a matrix, has fewer than two points, D is not in 1..P−1, a column of X has no
                observed entry, or X has no variance outside the leading D directions: less than 1e-6 of the spread of
                each column, judged in its own units. With missing entries EM detects this as σ approaches 0.
        """
        known, mask = filled(X, mask)
        closed_form.check(known, latent_dim, missing=mask is None)
        with forked():
            ppca = cls(latent_dim, X.shape[1]).to(X.device, sums_dtype(X.device))
        if closed_form.complete(X) if mask is None else mask.all():
            ppca.set(*closed_form.maximum_likelihood(X, latent_dim))
        else:
            mask = ~X.isnan() if mask is None else mask
            ppca._fit_missing(widened(X), mask, torch.finfo(X.dtype).eps, tol, max_steps)
        return ppca.to(X)

    def _fit_missing(self, X: Tensor, mask: Tensor, eps: float, tol: float, max_steps: int) -> None:
        em.check_columns(mask)
        mean = observed(X, mask).sum(0) / mask.sum(0)
        self.set(*closed_form.maximum_likelihood(torch.where(mask, X, mean), self.W.shape[1]))
        before = -math.inf
        for _ in range(max_steps):
            now = float(self._em_step(X, mask, eps))
            if now - before < tol:
                return
            before = now
        warnings.warn(
            f"EM for PPCA has not converged to {tol:g} nats per point in {max_steps} steps: raise max_steps",
            stacklevel=3,
        )

    @torch.no_grad()
    def set(self, W: Tensor, mu: Tensor, sigma2: Tensor) -> None:
        r"""Sets the parameters: W (P, D), μ (P,), σ² ().

        Raises:
            ValueError: if one has another shape, or σ² is not a finite number > 0.
        """
        for name, given, own in (("W", W, self.W), ("mu", mu, self.mu), ("sigma2", sigma2, self.sigma2)):
            if given.shape != own.shape:
                raise ValueError(f"{name} has shape {tuple(given.shape)}; expected {tuple(own.shape)}: reshape it")
        if not 0 < sigma2 < math.inf:
            raise ValueError(f"sigma2 is {sigma2:g}; expected a finite variance > 0: choose fewer latents, or float64")
        self.W.copy_(W)
        self.mu.copy_(mu)
        self.likelihood.u.copy_(0.5 * widened(sigma2).log())

    @torch.no_grad()
    def em_step(self, X: Tensor, mask: Tensor | None = None) -> Tensor:
        r"""Makes one step of EM, in place and in float64; but for rounding of the parameters, the evidence never falls.

        E: p(t_i | x_i, w) for each row. M: `em.maximized`, with the prior fitted as well and transformed back to N(0,
        I) (PX-EM: Liu, Rubin, Wu, 1998, Biometrika 85). It has the fixed points of EM and is as monotone, but stays
        fast where σ² is small.

        Arguments:
            X: data (N, P).
            mask: boolean, True where observed, (N, P).

        Returns:
            The mean of log p(x | w) over the points *before* the step, in nats per point.

        Raises:
            ValueError: if a column of X has no observed entry, or the likelihood has no maximum: W t + μ reproduces the
                observed entries of X up to rounding.
        """
        return self._em_step(X, mask, torch.finfo(X.dtype).eps).to(X)

    def _em_step(self, X: Tensor, mask: Tensor | None, eps: float) -> Tensor:
        q = self._posterior(X, mask)
        em.check(q, self.mu, eps)
        evidence = q.log_prob().mean()
        V, m, sigma2 = em.maximized(q)
        scale = q.log_scale.exp()
        self.set(scale * V, self.mu + scale * m, scale.square() * sigma2)
        return evidence
