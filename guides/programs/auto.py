r"""Rows or an encoder for the local latents of any Pyro program: `AutoPerPoint` and `AutoAmortized`."""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..amortized import Amortized
from ..families import FAMILIES
from ..per_point import FullRank, MeanField, PerPoint, PointEstimate
from ..rows import are_sparse
from .auto_local import AutoLocal

ROWS = {guide.family.name: guide for guide in (MeanField, FullRank, PointEstimate)}


class AutoPerPoint(AutoLocal):
    r"""Creates q(globals) ∏_i q_i(u_i) with a row of parameters for each of N points of a Pyro program.

    u_i are the latents of point i in the plate, on whatever supports, as one vector of unconstrained numbers. A call
    reads only the rows of its batch, and `SVI` and `fit` update only those.

    Arguments:
        model: the program, as in `AutoLocal`.
        num_points: the number N of points.
        plate: the name of the program's plate over points.
        family: "mean_field", "full_rank", or "point" for an estimate without a density.
        globals, init: as in `AutoLocal`.
        init_scale, folder, block: as in `MeanField`: the initial scale of the rows, and where to keep a table larger
            than memory.

    Raises:
        ValueError: on an unknown family, a number out of range, or ``init`` together with ``folder``.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x, index, *, size=None):
        ...     rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...     with pyro.plate("cells", size or len(x), subsample=index if size else None):
        ...         z = pyro.sample("z", dist.Gamma(2.0, rate))
        ...         pyro.sample("x", dist.Poisson(z), obs=x)
        >>> guide = AutoPerPoint(model, 100, plate="cells")
        >>> sorted(guide(torch.ones(5), torch.arange(5), size=100))
        ['rate', 'z']
    """

    def __init__(
        self,
        model,
        num_points: int,
        *,
        plate: str = "data",
        family: str = "mean_field",
        globals="AutoNormal",
        init: Callable | None = None,
        **rows,
    ):
        if family not in ROWS:
            raise ValueError(f"family is {family!r}; expected one of {', '.join(map(repr, ROWS))}")
        if init is not None and rows.get("folder") is not None:
            raise ValueError(
                f"init and folder={str(rows['folder'])!r} were both given; expected one of them: rows in files start "
                "at random, or are those in the folder"
            )
        if num_points < 1:
            raise ValueError(f"num_points is {num_points}; expected at least 1 point")
        self._said_dense = False
        super().__init__(model, partial(_rows, family, num_points, rows), plate=plate, globals=globals, init=init)
        self.num_points = num_points

    per_point = True

    def forward(self, *args, **kwargs):
        r"""Samples all latents; warns once if a step would touch all rows."""
        if self.training and torch.is_grad_enabled() and not are_sparse() and not self._said_dense:
            self._said_dense = True
            warnings.warn(
                f"{type(self).__name__} is trained without sparse gradients: each step updates all {self.num_points} "
                "rows; pyro_dlgm.SVI and fit update those of the batch",
                stacklevel=2,
            )
        return super().forward(*args, **kwargs)


class AutoAmortized(AutoLocal):
    r"""Creates q(globals) ∏_i q(u_i | x_i), with an encoder of x for the local latents of a Pyro program.

    Arguments:
        model: the program, as in `AutoLocal`.
        encoder: a network from x (B, ...) to features (B, H), as in `Amortized`.
        plate: the name of the program's plate over points.
        family: "mean_field" or "full_rank".
        globals, init: as in `AutoLocal`; ``init`` is for the globals.
        settings: further arguments of `Amortized`, ``init_scale``, ``mask_input`` and ``given_dim``.

    Raises:
        ValueError: on an unknown family.
    """

    def __init__(
        self,
        model,
        encoder: nn.Module,
        *,
        plate: str = "data",
        family: str = "mean_field",
        globals="AutoNormal",
        init: Callable | None = None,
        **settings,
    ):
        if family not in FAMILIES:
            raise ValueError(f"family is {family!r}; expected one of {', '.join(map(repr, FAMILIES))}")
        make = partial(_amortized, encoder, family, settings)
        super().__init__(model, make, plate=plate, globals=globals, init=init)


def _rows(family: str, num_points: int, rows: dict, local) -> PerPoint:
    return ROWS[family](num_points, local.latent_dim, **rows, latent=local.latent, plate=local.plate)


def _amortized(encoder: nn.Module, family: str, settings: dict, local) -> Amortized:
    return Amortized(encoder, local.latent_dim, family, **settings, latent=local.latent, plate=local.plate)
