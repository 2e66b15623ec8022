r"""Pyro's autoguides as guides of this package: those that are correct for local latents with subsampling."""

from operator import attrgetter

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from torch import Tensor

from ..points import Points
from ..priors.given import needs_given
from ..shared import Shared
from .per_point import Rowed

SUPPORTED = ("AutoNormal", "AutoDelta")


class Auto(Rowed):
    r"""Creates one of Pyro's autoguides with a row for each of N points; call `auto` to make one by name.

    The parameters of an autoguide belong to the plate with which it was made, so its plate always has N points. If the
    model's plate has the batch's length (no ``size``), the scale N/B is divided out again, so that both sides agree.
    The tables are dense: a step costs O(N).

    Arguments:
        model: the model, for its prior and names; held outside the module tree, as in `Exact`.
        name: "AutoNormal" or "AutoDelta".
        num_points: the number N of points.
    """

    def __init__(self, model, name: str, num_points: int):
        super().__init__(latent=model.latent, plate=model.plate)
        self.name, self.num_points, self.has_density = name, num_points, name != "AutoDelta"
        self._model = Shared((model,))
        self.autoguide = getattr(autoguide, name)(self._latents, create_plates=self._plates)
        # Run once for all rows, in a scope that leaves the global parameter store as it was.
        with pyro.get_param_store().scope():
            self.autoguide(None, torch.arange(num_points))
        # That run used no name that matters: a larger module may still adopt the guide.
        self._pyro_context.used = False

    def posterior(self, x=None, index: Tensor | None = None, mask=None, given=None) -> dist.TorchDistribution:
        r"""Returns q_i(t_i) for the rows ``index`` (B,): batch shape (B,), event shape (D,). Ignores all else."""
        self.check_index(index)
        if self.has_density:
            loc, scale = (self._rows(table, index) for table in (self.autoguide.locs, self.autoguide.scales))
            return dist.Normal(loc, scale).to_event(1)
        return dist.Delta(self._rows(self.autoguide, index), event_dim=1)

    def forward(self, x=None, index=None, *, mask=None, given=None, weight=None, size: int | None = None) -> Tensor:
        r"""Samples t (B, D) as the autoguide does, including its auxiliary site if it has one.

        Raises:
            ValueError: unless ``index`` holds rows of the guide, and ``size`` is left out or N.
        """
        self.check_index(index)
        self.check_size(size)
        self._batch_length(x, index, size)
        scale = 1.0 if size is not None else len(index) / self.num_points
        with pyro.poutine.scale(scale=scale), self.weighted(x, index, size, given=given, weight=weight):
            return self.autoguide(x, index)[self.latent]

    def start(self, points: Points) -> "Auto":
        r"""Creates the same autoguide with fresh rows for the points."""
        return Auto(self._model[0], self.name, len(points))

    def _rows(self, table, index: Tensor) -> Tensor:
        return attrgetter(self.latent)(table).index_select(0, index)

    def _plates(self, x=None, index=None):
        return pyro.plate(self.plate, self.num_points, subsample=index, dim=-1)

    def _latents(self, x=None, index=None):
        with self._plates(x, index):
            pyro.sample(self.latent, self._model[0].prior())


def auto(model, name: str, num_points: int) -> Auto:
    r"""Creates Pyro's autoguide ``name`` with a row for each of N points.

    Arguments:
        model: a `DLGM`.
        name: "AutoNormal" or "AutoDelta".
        num_points: the number N of points.

    Raises:
        ValueError: for any other autoguide, with the reason, or if N is below 1.
    """
    if name not in SUPPORTED:
        raise ValueError(
            f"auto got {name!r}: {_reason(name)}; expected one of {', '.join(SUPPORTED)}, or use MeanField or FullRank"
        )
    if needs_given(model.prior):
        raise ValueError(
            f"the prior {type(model.prior).__name__} depends on what is given, and {name} is made from p(t) alone; use "
            "MeanField or FullRank"
        )
    if num_points < 1:
        raise ValueError(f"num_points is {num_points}; expected at least 1 point")
    return Auto(model, name, num_points)


def _reason(name: str) -> str:
    r"""Returns why an autoguide is not supported."""
    if str(name).endswith("NormalMessenger"):
        return "the messenger autoguides break with parameters that are local to a plate"
    if name == "AutoDiscreteParallel":
        return "it is for discrete latents, whereas t is continuous"
    made = vars(autoguide).get(name)
    bases = autoguide.AutoContinuous, autoguide.AutoGaussian, autoguide.AutoStructured
    if isinstance(made, type) and issubclass(made, bases):
        return "it makes parameters of the batch's size and silently reuses them by position for other points"
    return "it is not known to be right for local latents with subsampling"
