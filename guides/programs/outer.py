r"""The base of guides of programs: attributes that come from the guide of u inside."""

from collections.abc import Callable

from torch.distributions import biject_to

from ...latents.support import is_identity
from ...points import Points
from ..base import Guide


class Outer(Guide):
    r"""Creates a guide around another one, ``inner``, which exists once the program was traced.

    Arguments:
        latent, plate: names, as in `Guide`.

    Attributes:
        inner: the guide of u, or `None` before then.
        local: the `LocalModel` of the program, or `None` before then.
    """

    def __init__(self, **names: str):
        super().__init__(**names)
        self.local = self.inner = None

    @property
    def program_plate(self) -> str:
        r"""The name of the program's plate over points."""
        return self.plate

    @property
    def program_depth(self) -> int:
        r"""The number of dimensions that the plates of the program take; 1 until it was traced."""
        return 1 if self.local is None else self.local.layout.depth

    @property
    def has_jacobians(self) -> bool:
        r"""Whether some latent is constrained, so that a log-Jacobian is part of its q."""
        transforms = [site.transform for site in self._made().local.layout.sites]
        prototype = getattr(self._dense[0], "prototype_trace", None)
        if prototype is not None:
            transforms += [biject_to(site["fn"].support) for _, site in prototype.iter_stochastic_nodes()]
        return not all(map(is_identity, transforms))

    def cost(self, visits: int) -> int:
        r"""Returns the gradient evaluations over ``visits`` visits: those of the q of u."""
        return visits if self.inner is None else self.inner.cost(visits)

    @property
    def gradients(self) -> int:
        r"""The number of gradient evaluations spent by the q of u itself, such as those of a chain."""
        return 0 if self.inner is None else self.inner.gradients

    @property
    def moves(self) -> bool:
        r"""Whether a call updates the q of u."""
        return self.inner is not None and self.inner.moves

    @property
    def has_density(self) -> bool:
        r"""Whether the q of u has a density."""
        return self.inner is None or self.inner.has_density

    @property
    def per_point(self) -> bool:
        r"""Whether the q of u has parameters for each point."""
        return self.inner is not None and self.inner.per_point

    def prepare(self, look: Callable[[], Points]) -> None:
        r"""Prepares the q of u for the scale of x."""
        self.inner.prepare(look)
