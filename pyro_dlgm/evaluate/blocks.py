r"""Points of an evaluation in blocks, and checked, with the q that is asked about them."""

from collections.abc import Iterator

import pyro
import torch
from pyro import poutine
from torch import Tensor

from .. import messages
from ..distributions import draws
from ..guides.base import adapted
from ..model import DLGM, Refusing
from ..points import Points, side
from ..seeding import forked
from .quiet import quiet

AXES = ((2, 3), (3, 2))  # on the left of codes; a layer that takes the second one for channels fits one of them at most
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
        ValueError: if the prior samples a further site, whose draw would be used silently.
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
    check_points(model, points)
    if hasattr(model, "check"):
        with quiet(model):
            model.check(points.observed(), **points.side)
    if adapted(guide).per_point:
        # Later, nothing is validated.
        with quiet(guide):
            posterior(guide, points)


def check_points(model, points: Points) -> None:
    r"""Raises a `ValueError` unless the points are points, and the model takes codes with axes on the left."""
    points.check()
    check_axes(model, points.given)


def check_axes(model, given: Tensor | None = None) -> None:
    r"""Raises a `ValueError` unless the model says the same of codes (K, B, D) as of (K*B, D).

    Particles, samples and chains put axes on the left. A plain convolution does not take them, and a `BatchNorm1d`
    takes the points for its channels, where their number allows it. Six draws are decoded, in eval mode.

    Arguments:
        model: a `DLGM`; of other programs nothing is asked.
        given: what points are conditioned on, (B, C).
    """
    if not isinstance(model, DLGM):
        return
    with quiet(model, seed=0), pyro.validation_enabled(False), poutine.block():
        one = None if given is None else given[:1]
        try:
            t, x, expected = _asked(model, one)
        except Exception:  # what it cannot do at all, it says where that is asked of it
            return
        for lead in AXES:
            try:
                found = _log_density(model, x.unflatten(0, lead), t.unflatten(0, lead), one)
                wrong = None if _equal(found, expected.unflatten(0, lead)) else "its densities are others there"
            except Exception as error:
                wrong = f"{type(error).__name__}: {messages.line(error)}"
            if wrong is not None:
                raise ValueError(_advice(model, t.shape[1], x.shape[1:], wrong))


def _asked(model, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    r"""Six codes (6, D), points made from them, and log p(x, t) or log p(x | t)."""
    num = AXES[0][0] * AXES[0][1]
    rows = _rows(given, num)
    t = draws(model.prior(**rows), 1, num).squeeze(0)
    x = draws(model.likelihood.forward(t, **rows), 1, num).squeeze(0) if _is_plain(model) else model(size=num, **rows)
    return t, x, _log_density(model, x, t, given)


def _is_plain(model) -> bool:
    return type(model).datum is DLGM.datum


def _log_density(model, x: Tensor, t: Tensor, given: Tensor | None) -> Tensor:
    given = _rows(given, t.shape[-2])
    with forked(0):
        if _is_plain(model):
            return model.likelihood.forward(t, **given).log_prob(x)  # no hook of a user's is called
        return model.log_joint(x, t, **given)


def _rows(given: Tensor | None, num: int) -> dict:
    return side(None if given is None else given.expand(num, -1))


def _equal(one: Tensor, two: Tensor) -> bool:
    tol = torch.finfo(two.dtype).eps ** 0.5
    return one.shape == two.shape and torch.allclose(one, two, rtol=2 * tol, atol=10 * tol, equal_nan=True)


def _advice(model, D: int, shape: torch.Size, wrong: str) -> str:
    net = getattr(model.likelihood, "net", model.likelihood)
    return (
        f"{type(net).__name__} decodes codes (B, {D}), but not (K, B, {D}), K samples or chains of each ({wrong}); "
        f"expected a network that takes axes on the left: wrap it in nets.Net({D}, {tuple(shape)}, network), which "
        "flattens them and restores them after it"
    )


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
