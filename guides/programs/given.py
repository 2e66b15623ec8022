r"""What a pair says of points given its global latents: the value at which they are held."""

from torch import Tensor

from ...seeding import forked
from .auto_local import AutoLocal

AT = {"centre": "at the centre of q", "draw": "at a draw of q"}


def given_globals(model, guide, at: str | dict[str, Tensor] = "centre", *, seed: int | None = None) -> tuple:
    r"""Returns the pair (model, guide) of the unconstrained latents u of points, given the global latents.

    Each function of `evaluate` takes the pair, and makes it at the centre of (program, `AutoLocal`). Of programs
    without global latents, and of guides that are no `AutoLocal`, there is nothing to hold.

    Arguments:
        model: a program.
        guide: an `AutoPerPoint`, `AutoAmortized` or `AutoLocal`.
        at: "centre" of their q (Pyro's ``median``, the mean in unconstrained coordinates), "draw" for one of q, or
            values by name.
        seed: of the draw.

    Raises:
        ValueError: on another ``at``, or values of other latents.
    """
    if not isinstance(guide, AutoLocal):
        return model, guide
    if isinstance(at, str) and at not in AT:
        raise ValueError(f"at is {at!r}; expected one of {', '.join(map(repr, AT))}, or values by name")
    how = AT[at] if isinstance(at, str) else "as given"
    return guide.given_globals(model, _values(guide, at, seed), how)


def conditions(model) -> str:
    r"""What the numbers of a model of points are conditioned on, in words: global latents, and where they are held."""
    return getattr(model, "conditions", "")


def _values(guide: AutoLocal, at, seed: int | None) -> dict[str, Tensor]:
    if not isinstance(at, str):
        return at
    if at == "centre":
        return guide.centre()
    with forked(seed):
        shapes = {name: value.shape for name, value in guide.local.seen.globals.items()}
        return {name: value.reshape(shapes[name]) for name, value in guide.draw_globals(1).items()}
