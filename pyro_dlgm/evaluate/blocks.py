r"""Splits the points of an evaluation into blocks, and checks them with model and guide."""

from collections.abc import Iterator

import pyro
import torch
from pyro import poutine
from torch import Tensor

from .. import messages
from ..distributions import draws
from ..guides.base import adapted
from ..latents.asked import posterior
from ..latents.local import LocalModel
from ..model import DLGM
from ..points import Points, side
from ..seeding import forked
from .quiet import quiet

# Leading axes of codes; a layer that takes the second one for channels fits at most one of these.
AXES = ((2, 3), (3, 2))
FIT_ONE = "fit one to this w first: evaluate.infer(model, guides.FullRank(len(x), D), x)"


def blocks(points: Points, num_samples: int, budget: int = 2**19) -> Iterator[tuple[Points, list[int]]]:
    r"""Yields blocks of points with sample counts: at most about ``budget`` numbers of x · samples at a time."""
    rows = max(1, budget // max(1, points.x[0].numel()))
    for here, counts in chunks(len(points.x), num_samples, rows):
        yield points[here], counts


def chunks(num_points: int, num_samples: int, rows: int) -> Iterator[tuple[slice, list[int]]]:
    r"""Yields slices of points, each with numbers of samples (or chains), such that points · samples <= ``rows``."""
    samples = max(1, min(num_samples, rows))
    size = max(1, rows // samples)
    counts = [min(samples, num_samples - k) for k in range(0, num_samples, samples)]
    for i in range(0, num_points, size):
        yield slice(i, min(i + size, num_points)), counts


def check_pair(model, guide, points: Points) -> None:
    r"""Raises a `ValueError` unless the likelihood accepts the points and, if the guide has rows, each has one."""
    check_points(model, points)
    if hasattr(model, "check"):
        with quiet(model):
            model.check(points.observed(), **points.side)
    if adapted(guide).per_point:
        # Later, validation is off.
        with quiet(guide):
            posterior(guide, points)


def check_points(model, points: Points) -> None:
    r"""Raises a `ValueError` unless the points are valid and the model accepts codes with leading axes."""
    points.check()
    if isinstance(model, LocalModel):
        return model.check_axes(points)
    check_axes(model, points.given)


def check_axes(model, given: Tensor | None = None) -> None:
    r"""Raises a `ValueError` unless the model has the same densities for codes (K, B, D) as for (K*B, D).

    Particles, samples and chains add leading axes. A plain convolution does not accept them, and a `BatchNorm1d` takes
    the points for its channels if their number fits. The check decodes six draws, in eval mode.

    Arguments:
        model: a `DLGM`; other programs are not checked.
        given: what points are conditioned on, (B, C).
    """
    if not isinstance(model, DLGM):
        return
    with quiet(model, seed=0), pyro.validation_enabled(False), poutine.block():
        one = None if given is None else given[:1]
        try:
            t, x, expected = _asked(model, one)
        except Exception:  # errors at codes (B, D) are reported where the model is used
            return
        for lead in AXES:
            try:
                found = _log_density(model, x.unflatten(0, lead), t.unflatten(0, lead), one)
                wrong = None if _equal(found, expected.unflatten(0, lead)) else "its densities differ there"
            except Exception as error:
                wrong = f"{type(error).__name__}: {messages.line(error)}"
            if wrong is not None:
                raise ValueError(_advice(model, t.shape[1], x.shape[1:], wrong))


def _asked(model, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns six codes (6, D), points drawn from them, and log p(x, t) or log p(x | t)."""
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
            return model.likelihood.forward(t, **given).log_prob(x)  # this calls no hooks of the user
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
        "flattens these axes and restores them afterwards"
    )


def check_posterior(guide) -> None:
    r"""Raises a `TypeError` unless the guide has a `posterior`."""
    if adapted(guide).posterior is None:
        raise TypeError(f"{type(guide).__name__} has no posterior(x, index, mask); use a guide of this package")


def check_density(guide, instead: str) -> None:
    r"""Raises a `TypeError` unless q can be sampled, and its density evaluated anywhere.

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
