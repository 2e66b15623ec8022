r"""Functions of a guide and a model of points, which may be a `DLGM` or a `LocalModel`."""

from torch import Tensor

from ..likelihoods.base import Conditional, given_observed
from ..masks import pixelwise
from ..points import Points
from ..priors.given import needs_given
from .held import Refusing
from .local import LocalModel


def posterior(guide, points: Points):
    r"""Returns q(t | x) of the points."""
    return guide.posterior(*points.seen, **points.side)


def prior(model, points: Points):
    r"""Returns p(t) of the points, of batch shape (), or (B,) if it depends on the points.

    Raises:
        ValueError: if the prior samples a further site, whose draw would be used silently.
    """
    if isinstance(model, LocalModel):
        return model.prior_at(points)
    with Refusing():
        return model.prior_of(points.given) if hasattr(model, "prior_of") else model.prior(**points.side)


def latent_dim(model, guide=None) -> int:
    r"""Returns the number D of latents of a point.

    Where p(t) depends on ``given``, it is the ``latent_dim`` of the prior, or else that of the guide.

    Raises:
        ValueError: if neither of them has one.
    """
    if isinstance(model, LocalModel):
        return model.latent_dim
    if not needs_given(model.prior):
        return model.prior().event_shape[0]
    for part in (model.prior, guide):
        if hasattr(part, "latent_dim"):
            return part.latent_dim
    raise ValueError(
        f"{type(model.prior).__name__} depends on what is given, which leaves the number of latents unknown; expected "
        "a prior with an attribute latent_dim"
    )


def emission(model, points: Points, t: Tensor):
    r"""Returns p(x | t, w) for codes t (..., B, D) of the points."""
    if isinstance(model, LocalModel):
        return model.emission_at(points, t)
    return model.emission(t, **points.side) if hasattr(model, "emission") else model.likelihood(t, **points.side)


def completion(model, points: Points, t: Tensor):
    r"""Returns p(x | t, x_o, m) for codes t (..., B, D): missing values given the observed ones and the mask.

    Raises:
        ValueError: as `likelihoods.base.given_observed`.
    """
    p, likelihood = emission(model, points, t), getattr(model, "likelihood", None)
    if points.mask is None:
        return p
    ask = likelihood.completed if isinstance(likelihood, Conditional) else given_observed
    return ask(p, points.observed(), pixelwise(points.mask, points.x.dim()))


def log_joint(model, points: Points, t: Tensor) -> Tensor:
    r"""Returns log p(x, t | w) of the points for codes t (..., B, D)."""
    if isinstance(model, LocalModel):
        return model.log_joint(points, t)
    return model.log_joint(points.x, t, points.mask, **points.side)
