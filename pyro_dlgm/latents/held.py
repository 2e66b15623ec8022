r"""Handlers that fix the latent t of a model, and refuse another latent, or a plate without the points of the batch."""

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import messages

EVENT = ".to_event(k) on the distribution of a site whose values have k axes in each point"


class Refusing(Messenger):
    r"""Creates the handler that refuses draws: each site has to be observed, or set by a handler around this one.

    Arguments:
        beside: the latent that is fixed, for the error.
    """

    def __init__(self, beside: str = ""):
        super().__init__()
        self.beside = beside

    def _pyro_post_sample(self, msg) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
            beside = f" besides {self.beside!r}" if self.beside else ""
            raise ValueError(
                f"the program samples {msg['name']!r}{beside}, and a draw of it would be used silently; expected no "
                "further latent: sum it out, make it part of the existing one, or hold it, with "
                f"poutine.condition(data={{{msg['name']!r}: ...}}) around the call"
            )


class Batch(Messenger):
    r"""Creates the handler that refuses a plate over points that has another number of them than the batch.

    Left to run, the program would fail at the first operation on values of both numbers, or broadcast them. To an error
    of Pyro on an axis of a plate it adds what to write.

    Arguments:
        plate: the name of the plate.
        num_points: the number B of points in the batch.
    """

    def __init__(self, plate: str | None, num_points: int):
        super().__init__()
        self.plate, self.num_points = plate, num_points

    def _pyro_post_sample(self, msg) -> None:
        if msg["name"] != self.plate or not poutine.util.site_is_subsample(msg):
            return
        if len(msg["value"]) != self.num_points:
            raise ValueError(
                f"the plate {self.plate!r} of the program has {len(msg['value'])} points, and the batch "
                f"{self.num_points}; expected the plate over the points of the batch: "
                f"pyro.plate({self.plate!r}, size or len(x), subsample=index)"
            )

    def __exit__(self, kind, error, trace) -> None:
        super().__exit__(kind, error, trace)
        if str(error).startswith("Shape mismatch inside plate"):
            raise ValueError(f"{messages.line(error)}; expected one axis for each plate: {EVENT}") from error


class Held(Refusing):
    r"""Creates the handler that fixes the latent t, hides sites from other handlers, and sums their log-densities.

    Attributes:
        sites: the messages of the sites so far, by name.
    """

    def __init__(self, latent: str, t: Tensor):
        super().__init__(latent)
        self.latent, self.t, self.sites = latent, t, {}

    def _pyro_sample(self, msg) -> None:
        if msg["name"] == self.latent:
            msg["value"], msg["is_observed"] = self.t, True
        # Other values may come from a handler around this one, such as ``poutine.condition`` for a Bayesian w.
        msg["stop"] = msg["is_observed"] or poutine.util.site_is_subsample(msg)

    def _pyro_post_sample(self, msg) -> None:
        super()._pyro_post_sample(msg)
        if not msg["infer"].get("_deterministic") and not poutine.util.site_is_subsample(msg):
            self.sites[msg["name"]] = msg

    def log_joint(self, observed: str) -> Tensor:
        r"""Returns the sum of the log-densities of the sites, (..., B), in the joint shape of ``observed`` and t."""
        terms = {name: _log_prob(msg) for name, msg in self.sites.items()}
        shape = torch.broadcast_shapes(self.t.shape[:-1], terms[observed].shape)
        for name, term in terms.items():
            fits = term.shape[-1:] == shape[-1:] and term.dim() <= len(shape)
            if not (fits and torch.broadcast_shapes(term.shape, shape) == shape):
                raise ValueError(
                    f"site {name!r} has no log-density for each point (shape {tuple(term.shape)}, points and samples "
                    f"{tuple(shape)}); expected one, along the last axis: use .to_event for the axes of a point"
                )
        return sum(terms.values())


def _log_prob(msg) -> Tensor:
    r"""Returns the log-density of a site, summed over the axes of plates to the left of the points."""
    log_prob = scale_and_mask(msg["fn"].log_prob(msg["value"]), mask=msg["mask"])
    inner = [f.dim for f in msg["cond_indep_stack"] if f.vectorized and f.dim < -1]
    return log_prob.sum(inner) if inner else log_prob


class Emitting(Held):
    r"""Creates the handler that fixes t and stops at the site of x, whose distribution is p(x | t, w)."""

    def __init__(self, latent: str, t: Tensor, observed: str):
        super().__init__(latent, t)
        self.observed, self.found = observed, None

    def _pyro_sample(self, msg) -> None:
        if msg["name"] == self.observed:
            self.found, msg["value"], msg["done"], msg["is_observed"] = msg["fn"], self.t, True, True
        super()._pyro_sample(msg)
