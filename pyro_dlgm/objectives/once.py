r"""Samples of the latents of points, with one draw of what belongs to no point."""

import contextlib

import pyro
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .sites import DRAWS


class Once(Messenger):
    r"""Creates the handler that draws what lies outside of the plate over data once, whatever plates are around it.

    Such sites do not reach the handlers around this one, the plate of samples above all.

    Arguments:
        plate: the name of the plate over data; `None`: any plate at dimension −1.
        values: of latents and of subsamples that are drawn already, by name.
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


def point_frame(site: dict, plate: str | None):
    r"""The frame of the plate over data in which a site is, or `None`."""
    frames = site["cond_indep_stack"]
    return next((f for f in frames if (f.dim == -1 if plate is None else f.name == plate)), None)


def outside(trace, plate: str | None) -> dict[str, Tensor]:
    r"""Values of the latents and subsamples of a trace outside of the plate over data, by name."""
    sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {n: s["value"] for n, s in sites.items() if not s["is_observed"] and point_frame(s, plate) is None}


@contextlib.contextmanager
def samples(num: int, depth: int, plate: str | None, values: dict[str, Tensor]):
    r"""Context manager: programs draw ``num`` samples of the latents of each point, and one of all others.

    A single sample has no axis to the left of the plates: programs that take none run with it.

    Arguments:
        num: of samples.
        depth: how many dimensions the plates of the program take.
        plate, values: as those of `Once`.
    """
    axis = contextlib.nullcontext() if num == 1 else pyro.plate(DRAWS, num, dim=-1 - depth)
    with axis, Once(plate, values):
        yield
