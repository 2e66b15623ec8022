r"""Guides with a row of parameters for each point: q_i(t_i) = family(row i). They ignore x."""

from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor

from ..points import Points, check_index
from ..seeding import forked
from ..storage.row_files import BLOCK
from . import families
from .base import Guide
from .rows import Rows, RowsInFiles


class Rowed(Guide):
    r"""The base of guides with a row for each of their N = ``num_points`` points."""

    per_point = True
    num_points: int

    def check_index(self, index: Tensor | None) -> None:
        r"""Raises a `ValueError` unless ``index`` is a vector of row numbers.

        Whether these rows exist is checked if Pyro's validation is on.
        """
        name, N = type(self).__name__, self.num_points
        check_index(index)
        if index is None:
            raise ValueError(
                f"{name} has a row for each of its {N} points and got no index; say which rows: "
                "index=torch.arange(n). For other points, fit other rows: evaluate.infer(model, guide, x)"
            )
        if is_validation_enabled() and len(index) and not 0 <= int(index.min()) <= int(index.max()) < N:
            raise ValueError(
                f"index goes from {int(index.min())} to {int(index.max())}; expected 0..{N - 1}, the rows of {name}: "
                "make it for more points, or fit rows for others, evaluate.infer(model, guide, x)"
            )

    def check_size(self, size: int | None) -> None:
        r"""Raises a `ValueError` if ``size`` is given and is not N."""
        if size not in (None, self.num_points):
            name, N = type(self).__name__, self.num_points
            raise ValueError(
                f"{name} has rows for {N} points, but there are {size} (size={size}): make the guide for {size} points"
            )

    def data_plate(self, x, index, size):
        r"""Returns the plate over data; a ``size`` other than N is an error."""
        self.check_size(size)
        return super().data_plate(x, index, size)


class PerPoint(Rowed):
    r"""Creates ∏_i q_i(t_i), i = 1..N: one family for all q_i, and a row of parameters for each.

    The table has N rows from the start. A call reads only the rows of its batch, and `svi.SVI` updates only those.
    ``index`` is always required, since the rows of training points must never be used for test points.

    Arguments:
        num_points: the number N of points.
        latent_dim: the number D of latents.
        family: a function of D that makes the family of q; classes with a fixed family, such as `MeanField`, omit it.
        init_scale: the initial scale s of q. The means start at random, as N(0, s²).
        folder: where to keep the table in files if it is larger than memory; an existing table is opened
            (`rows.RowsInFiles`). By default the table is in memory.
        block: the number of points visited together if the table is in files.
        latent, plate: names of the model's latent site and plate.

    Raises:
        ValueError: if N or D is less than 1, or the scale is not a finite number > 0.
    """

    family: families.Family

    def __init__(
        self,
        num_points: int,
        latent_dim: int,
        *,
        family: Callable[[int], families.Family] | None = None,
        init_scale: float = 0.1,
        folder: str | Path | None = None,
        block: int = BLOCK,
        **names: str,
    ):
        super().__init__(**names)
        if num_points < 1 or latent_dim < 1:
            raise ValueError(f"num_points is {num_points}, latent_dim {latent_dim}; expected both >= 1")
        self.num_points, self.latent_dim, self.init_scale = num_points, latent_dim, init_scale
        if family is not None:
            self.family = family(latent_dim)
        self._log_scale, width = families.log_scale(init_scale), self.family.width(latent_dim)
        if folder is None:
            self.rows = Rows.filled(num_points, width, self._first_rows)
        else:
            # One draw in either case, so that later draws do not depend on whether the folder has rows already.
            with forked(int(torch.randint(2**62, (), device="cpu"))):
                self.rows = RowsInFiles(folder, num_points, width, self._first_rows, block)

    def _first_rows(self, num: int) -> Tensor:
        r"""Returns initial raw numbers (num, width) for a table."""
        return self.family.start(self.init_scale * torch.randn(num, self.latent_dim), self._log_scale)

    @property
    def has_density(self) -> bool:
        r"""Whether q has a density, so that F(q) exists."""
        return self.family.has_density

    def posterior(self, x=None, index: Tensor | None = None, mask=None, given=None) -> dist.TorchDistribution:
        r"""Returns q_i(t_i) for the rows ``index`` (B,): batch shape (B,), event shape (D,). Ignores all else.

        Raises:
            ValueError: if ``index`` is left out.
        """
        self.check_index(index)
        return self.family(self.rows(index))

    def start(self, points: Points) -> "PerPoint":
        r"""Creates a guide of the same class with fresh rows for the points, with the same device and dtype."""
        names = {"latent": self.latent, "plate": self.plate}
        return type(self)(len(points), self.latent_dim, init_scale=self.init_scale, **names).to(self.rows.weight)

    def set_rows(self, raw: Tensor) -> "PerPoint":
        r"""Overwrites the table with raw numbers (N, width) of the family, and returns the guide.

        Raises:
            ValueError: if they have another shape.
        """
        if raw.shape != self.rows.weight.shape:
            name, shape = type(self).__name__, tuple(self.rows.weight.shape)
            raise ValueError(f"raw has shape {tuple(raw.shape)}; expected {shape}, the table of {name}: see its family")
        self.rows.overwrite(raw)
        return self


class PointEstimate(PerPoint):
    r"""Creates q_i = δ(t_i − m_i): hard EM. It has no density, hence no F(q); training ascends log p(x, t | w).

    Arguments and errors are those of `PerPoint`, without ``family``.
    """

    family = families.point


class MeanField(PerPoint):
    r"""Creates q_i(t_i) = ∏_j N(m_ij, s_ij²): variational EM with a factorized q.

    Arguments and errors are those of `PerPoint`, without ``family``.

    References:
        Blei, Kucukelbir, McAuliffe, "Variational inference: a review for statisticians" (2017), section 2.3.
        https://arxiv.org/abs/1601.00670
    """

    family = families.mean_field


class FullRank(PerPoint):
    r"""Creates q_i(t_i) = N(m_i, L_i L_iᵀ): variational EM with correlated latents.

    Arguments and errors are those of `PerPoint`, without ``family``.
    """

    family = families.full_rank


PER_POINT = {guide.family.name: guide for guide in (MeanField, FullRank)}
