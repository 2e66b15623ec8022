r"""What a guide of a program says as the guide of u inside of it says it."""

from collections.abc import Callable

from torch.distributions import biject_to

from ...latents.support import is_identity
from ...points import Points
from ..base import Guide


class Outer(Guide):
    r"""Creates a guide around another one, ``inner``, which is there once the program was seen.

    Arguments:
        latent, plate: names, as those of a `Guide`.

    Attributes:
        inner: the guide of u, or `None` before that.
        local: the `LocalModel` of the program, or `None` before that.
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
        r"""How many dimensions the plates of the program take, as far as it was seen."""
        return 1 if self.local is None else self.local.layout.depth

    @property
    def has_jacobians(self) -> bool:
        r"""Whether a latent is not real, so that a log-Jacobian is a part of its q."""
        transforms = [site.transform for site in self._made().local.layout.sites]
        prototype = getattr(self._dense[0], "prototype_trace", None)
        if prototype is not None:
            transforms += [biject_to(site["fn"].support) for _, site in prototype.iter_stochastic_nodes()]
        return not all(map(is_identity, transforms))

    def cost(self, visits: int) -> int:
        r"""Gradient evaluations over ``visits`` visits: those of the q of u."""
        return visits if self.inner is None else self.inner.cost(visits)

    @property
    def gradients(self) -> int:
        r"""Gradient evaluations that q has spent by itself, a chain's."""
        return 0 if self.inner is None else self.inner.gradients

    @property
    def moves(self) -> bool:
        r"""Whether the q of u moves by itself."""
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
