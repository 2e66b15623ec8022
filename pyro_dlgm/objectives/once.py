r"""Several samples of the latents of points, with a single draw of global latents."""

import contextlib

import pyro
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .sites import DRAWS, point_frame


class Once(Messenger):
    r"""Creates the handler that draws latents outside the plate over data once, whatever plates are around it.

    Such sites do not reach the handlers around this one, in particular the plate of samples.

    Arguments:
        plate: the name of the plate over data; `None`: any plate at dimension −1.
        values: latents and subsamples that are drawn already, by name.
    """

    def __init__(self, plate: str | None, values: dict[str, Tensor]):
        super().__init__()
        self.plate, self.values = plate, values

    def _pyro_sample(self, msg) -> None:
        if point_frame(msg, self.plate) is not None:
            return
        msg["stop"] = not poutine.util.site_is_subsample(msg)
        if msg["name"] in self.values and not (msg["done"] or msg["is_observed"]):
            msg["value"], msg["done"] = self.values[msg["name"]], True


def outside(trace, plate: str | None) -> dict[str, Tensor]:
    r"""Returns the values of latents and subsamples outside the plate over data, by name."""
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {n: s["value"] for n, s in sites.items() if not s["is_observed"] and point_frame(s, plate) is None}


@contextlib.contextmanager
def samples(num: int, depth: int, plate: str | None, values: dict[str, Tensor]):
    r"""Context manager: programs draw ``num`` samples of the latents of each point, and one of all other latents.

    With a single sample there is no axis to the left of the plates, for programs that do not take one.

    Arguments:
        num: the number of samples.
        depth: the number of dimensions that the plates of the program take.
        plate, values: as in `Once`.
    """
    axis = contextlib.nullcontext() if num == 1 else pyro.plate(DRAWS, num, dim=-1 - depth)
    with axis, Once(plate, values):
        yield
