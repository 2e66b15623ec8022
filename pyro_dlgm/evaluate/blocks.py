r"""Points of an evaluation in blocks, and checked, with the q that is asked about them."""

from collections.abc import Iterator

from torch import Tensor

from ..guides.base import adapted
from ..model import Refusing
from ..points import Points
from .quiet import quiet

FIT_ONE = "fit one to this w first: evaluate.infer(model, guides.FullRank(len(x), D), x)"


def blocks(points: Points, num_samples: int, budget: int = 2**19) -> Iterator[tuple[Points, list[int]]]:
    r"""Points and sample counts block by block: at most about ``budget`` numbers of x · samples at a time."""
    rows = max(1, budget // max(1, points.x[0].numel()))
    for here, counts in chunks(len(points.x), num_samples, rows):
        yield points[here], counts


def chunks(num_points: int, num_samples: int, rows: int) -> Iterator[tuple[slice, list[int]]]:
    r"""Slices of points, each with the numbers of samples (or chains) that go together: at most ``rows`` at a time."""
    samples = max(1, min(num_samples, rows))
    size = max(1, rows // samples)
    counts = [min(samples, num_samples - k) for k in range(0, num_samples, samples)]
    for i in range(0, num_points, size):
        yield slice(i, min(i + size, num_points)), counts


def posterior(guide, points: Points):
    r"""Returns q(t | x) of the points."""
    return guide.posterior(*points.seen, **points.side)


def prior(model, points: Points):
    r"""Returns p(t) of the points, by its density: of batch shape (), or (B,) where it depends on what is given.

    Raises:
        ValueError: if the prior samples a site of its own, a draw of which would be used silently.
    """
    with Refusing():
        return model.prior_of(points.given) if hasattr(model, "prior_of") else model.prior(**points.side)


def emission(model, points: Points, t: Tensor):
    r"""Returns p(x | t, w) for codes t (..., B, D) of the points."""
    return model.emission(t, **points.side) if hasattr(model, "emission") else model.likelihood(t, **points.side)


def log_joint(model, points: Points, t: Tensor) -> Tensor:
    r"""Returns log p(x, t | w) of the points for codes t (..., B, D)."""
    return model.log_joint(points.x, t, points.mask, **points.side)


def check_pair(model, guide, points: Points) -> None:
    r"""Raises a `ValueError` unless the likelihood takes the points and, where the guide has rows, each has one."""
    points.check()
    if hasattr(model, "check"):
        with quiet(model):
            model.check(points.observed(), **points.side)
    if adapted(guide).per_point:
        # Later, nothing is validated.
        with quiet(guide):
            posterior(guide, points)


def check_density(guide, instead: str) -> None:
    r"""Raises a `TypeError` unless q can be drawn from and evaluated anywhere.

    Arguments:
        guide: a guide.
        instead: what to do if it cannot.
    """
    name = type(guide).__name__
    if adapted(guide).posterior is None:
        raise TypeError(
            f"{name} has no posterior(x, index, mask); expected a guide that returns q as a distribution: {instead}"
        )
    if not adapted(guide).has_density:
        raise TypeError(f"{name} has no density; expected a q that can be evaluated anywhere: {instead}")
