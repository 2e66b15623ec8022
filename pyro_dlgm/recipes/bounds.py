r"""Training objectives by name: "elbo", "iwae:K", "dreg:K". Only `objective` imports torch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..objectives.elbo import ELBO
    from ..objectives.importance import IWAE

ELBO_NAME = "elbo"
FORM = "elbo, iwae:K or dreg:K with K >= 1 samples of each point"
# Guides of `pairs.GUIDES` without a density: they have no weights.
NO_DENSITY = ("hard-em", "mcem", "mcem-encoder", "auto-delta")


def num_samples(name: str) -> int:
    r"""Returns the number K of samples of each point that an objective takes.

    Raises:
        ValueError: if it is no name of an objective.
    """
    found = re.fullmatch(r"(?:iwae|dreg):([1-9]\d*)", name)
    if name != ELBO_NAME and found is None:
        raise ValueError(f"objective is {name!r}; expected {FORM}")
    return 1 if found is None else int(found[1])


def check(name: str, guides: list[str]) -> None:
    r"""Raises a `ValueError` that names the guides without a density, if the objective needs one."""
    points = [guide for guide in guides if guide in NO_DENSITY]
    num_samples(name)
    if name != ELBO_NAME and points:
        raise ValueError(
            f"objective is {name!r}, made of weights p(x, t) / q(t | x), and {', '.join(points)} has no density q; "
            "expected objective 'elbo', or other guides"
        )


def objective(name: str) -> ELBO | IWAE:
    r"""Returns the loss of that name."""
    from ..objectives.elbo import ELBO
    from ..objectives.importance import IWAE, DReG

    return ELBO() if name == ELBO_NAME else {"iwae": IWAE, "dreg": DReG}[name[:4]](num_samples(name))
