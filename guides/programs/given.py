r"""The pair (model, guide) of points given the global latents, which are held at one value."""

from torch import Tensor

from ...latents.local import LocalModel
from ...seeding import forked
from ..base import check_order
from .auto_local import AutoLocal

AT = {"centre": "at the centre of q", "draw": "at a draw of q"}


def given_globals(model, guide, at: str | dict[str, Tensor] = "centre", *, seed: int | None = None) -> tuple:
    r"""Returns the pair (model, guide) of the unconstrained latents u of points, given the global latents.

    Each function of `evaluate` takes such a pair; from (program, `AutoLocal`) it makes the pair at the centre. For a
    guide that is not an `AutoLocal` the arguments are returned as they are.

    Arguments:
        model: a program.
        guide: an `AutoPerPoint`, `AutoAmortized` or `AutoLocal`.
        at: "centre" of their q (Pyro's ``median``, the mean in unconstrained coordinates), "draw" for one of q, or
            values by name.
        seed: the seed of the draw.

    Raises:
        TypeError: if model and guide are swapped.
        ValueError: on an unknown ``at``, or values of other latents.
    """
    check_order(model, guide)
    if not isinstance(guide, AutoLocal):
        return model, guide
    if isinstance(at, str) and at not in AT:
        raise ValueError(f"at is {at!r}; expected one of {', '.join(map(repr, AT))}, or values by name")
    how = AT[at] if isinstance(at, str) else "as given"
    return guide.given_globals(model, _values(guide, at, seed), how)


def conditions(model) -> str:
    r"""Describes what the numbers of a model of points are conditioned on: global latents, and where they are held."""
    return model.conditions if isinstance(model, LocalModel) else ""


def _values(guide: AutoLocal, at, seed: int | None) -> dict[str, Tensor]:
    if not isinstance(at, str):
        return at
    if at == "centre":
        return guide.centre()
    with forked(seed):
        return {name: value[0] for name, value in guide.draw_globals(1).items()}
