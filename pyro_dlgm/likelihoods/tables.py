r"""Tables of mixed types: a likelihood for each group of columns."""

from collections.abc import Iterable, Mapping
from math import prod

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ..distributions import averaged, guess, mean, variance
from ..masks import pixelwise
from .base import Conditional, given_observed

Which = int | slice | Iterable[int]


class Columns(Conditional):
    r"""Creates p(x | t, w) = ∏_k p_k(x_{columns k} | t, w), for rows (P,) whose columns are of different types.

    x is one tensor (..., P), in which classes and counts are whole numbers, of a real type if another column is real.
    Masks are per entry, or of whole rows.

    Arguments:
        parts: a mapping {columns: likelihood}, or pairs (columns, likelihood). Columns are a number, range or tuple, or
            in pairs also a slice or a list; each of the P columns is in one group. A likelihood of n columns returns
            events of shape (n,).
        net: a network from t (..., D), or [t | c], to features (..., H), which all likelihoods decode. Without it, each
            decodes t, or [t | c], itself.

    Raises:
        ValueError: if a column is in two groups or in none, or a network returns another number of columns.

    References:
        Nazabal, Olmos, Ghahramani, Valera, "Handling incomplete heterogeneous data using VAEs" (2020).
        https://arxiv.org/abs/1807.03653

    Example:
        >>> from pyro_dlgm import likelihoods, nets
        >>> real = likelihoods.DiagonalNormal(nets.Linear(8, 3, heads=2))
        >>> kind = likelihoods.Categorical(nets.Linear(8, 1, heads=4), 4)
        >>> p = Columns({range(3): real, 3: kind}, net=nets.MLP(2, 8))
        >>> p(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 4])
    """

    event_dim = 1

    def __init__(self, parts: Mapping | Iterable[tuple], net: nn.Module | None = None):
        super().__init__()
        pairs = list(parts.items() if isinstance(parts, Mapping) else parts)
        if not pairs:
            raise ValueError("Columns got no parts; expected {columns: likelihood}")
        self.net, self.parts = net, nn.ModuleList(likelihood for _, likelihood in pairs)
        P = sum(_width(which, likelihood) for which, likelihood in pairs)
        self.columns = [_numbers(which, P) for which, _ in pairs]
        _check_cover(self.columns, P)
        for numbers, likelihood in zip(self.columns, self.parts, strict=True):
            _check_part(numbers, likelihood)

    def forward(self, t: Tensor, mask: Tensor | None = None, given: Tensor | None = None) -> "Rows":
        r"""Returns p(x | t, w); arguments are those of `Likelihood.forward`."""
        side = {} if given is None or self.net is not None else {"given": given}
        v = t if self.net is None else self.net(self.code(t, given))
        whole = mask is None or mask.dim() == 1 < t.dim()
        masks = (mask if whole else mask[..., _index(numbers)] for numbers in self.columns)
        found = [likelihood(v, m, **side) for likelihood, m in zip(self.parts, masks, strict=True)]
        return Rows(list(zip(self.columns, found, self.parts, strict=True)))

    def drawn_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        r"""Returns the masks for simulated x, joined from those of the parts."""
        drawn = pixelwise(mask, x.dim()).expand_as(x).clone()
        for numbers, part in zip(self.columns, self.parts, strict=True):
            if isinstance(part, Conditional):
                drawn[..., numbers] = part.drawn_mask(x[..., numbers], drawn[..., numbers])
        return drawn


class Rows(dist.TorchDistribution):
    r"""Creates the distribution of rows (P,) whose groups of columns are independent.

    Arguments:
        parts: triples of column numbers, their distribution of event shape (n,), and its likelihood.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, parts: list[tuple[list[int], dist.TorchDistribution, nn.Module]]):
        self.parts = parts
        order = [number for numbers, _, _ in parts for number in numbers]
        self.order = sorted(range(len(order)), key=order.__getitem__)
        batch = torch.broadcast_shapes(*(p.batch_shape for _, p, _ in parts))
        super().__init__(batch, torch.Size((len(order),)), validate_args=False)

    @property
    def support(self) -> "RowSupport":
        r"""Rows whose groups of columns lie in their supports."""
        return RowSupport([(numbers, p.support) for numbers, p, _ in self.parts])

    def expand(self, batch_shape, _instance=None) -> "Rows":
        r"""Returns the same distribution with batch axes added on the left."""
        return Rows([(numbers, p.expand(batch_shape), whose) for numbers, p, whose in self.parts])

    def completed(self, x: Tensor, mask: Tensor) -> "Rows":
        r"""Returns p(x | x_o, m), in which each group of columns is given its own observed values.

        Arguments:
            x: rows (..., P), with any number where missing.
            mask: boolean, True where observed, of a shape that broadcasts to x's.
        """
        mask, found = mask.expand_as(x), []
        for numbers, p, whose in self.parts:
            ask = whose.completed if isinstance(whose, Conditional) else given_observed
            found.append((numbers, ask(p, x[..., _index(numbers)], mask[..., _index(numbers)]), whose))
        return Rows(found)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density of rows, the sum over the groups."""
        return sum(p.log_prob(value[..., _index(numbers)]) for numbers, p, _ in self.parts)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws rows (..., P)."""
        with torch.no_grad():
            return self._joined(p.expand(self.batch_shape).sample(sample_shape) for _, p, _ in self.parts)

    @property
    def mean(self) -> Tensor:
        r"""The mean of each column; NaN for classes."""
        return self._joined(mean(p).expand(self.batch_shape + p.event_shape) for _, p, _ in self.parts)

    @property
    def variance(self) -> Tensor:
        r"""The variance of each column; NaN for classes."""
        return self._joined(variance(p).expand(self.batch_shape + p.event_shape) for _, p, _ in self.parts)

    @property
    def averaged(self) -> Tensor:
        r"""What to average over t for a guess at x, (..., numbers): means, and probabilities of classes."""
        parts = (averaged(p) for _, p, _ in self.parts)
        return torch.cat([v.flatten(len(p.batch_shape)) for v, (_, p, _) in zip(parts, self.parts, strict=True)], -1)

    def guess(self, averages: Tensor) -> Tensor:
        r"""Returns means, and the most probable classes, (..., P)."""
        shapes = [averaged(p).shape[len(p.batch_shape) :] for _, p, _ in self.parts]
        found = averages.split([prod(shape) for shape in shapes], -1)
        triples = zip(found, shapes, self.parts, strict=True)
        return self._joined(guess(p, v.unflatten(-1, shape)) for v, shape, (_, p, _) in triples)

    def _joined(self, made: Iterable[Tensor]) -> Tensor:
        v = torch.cat(list(made), -1)
        return v if self.order == list(range(len(self.order))) else v[..., self.order]


class RowSupport(constraints.Constraint):
    r"""Creates the support of rows: each group of columns lies in its own support.

    Arguments:
        parts: pairs of column numbers and the support of their events.
    """

    event_dim = 1

    def __init__(self, parts: list[tuple[list[int], constraints.Constraint]]):
        self.parts = parts
        super().__init__()

    @property
    def is_discrete(self) -> bool:
        r"""Whether all columns are discrete."""
        return all(support.is_discrete for _, support in self.parts)

    def check(self, value: Tensor) -> Tensor:
        r"""Returns which rows (..., P) lie in the support."""
        return torch.stack([support.check(value[..., _index(n)]) for n, support in self.parts]).all(0)


def _index(numbers: list[int]) -> slice | list[int]:
    r"""Returns consecutive columns as a slice, which gives a view."""
    first, last = numbers[0], numbers[-1] + 1
    return slice(first, last) if numbers == list(range(first, last)) else numbers


def _width(which: Which, likelihood: nn.Module) -> int:
    r"""Returns the number of columns of a group; for an open slice, that of the network's ``out_shape``."""
    if isinstance(which, int):
        return 1
    if not isinstance(which, slice):
        return len(list(which))
    if which.stop is not None and min(which.start or 0, which.stop, which.step or 1) >= 0:
        return len(range(which.stop)[which])
    shape = getattr(getattr(likelihood, "net", None), "out_shape", None)
    if shape is None:
        raise ValueError(f"columns {which} are open, and the network has no out_shape; expected slice(first, stop)")
    return prod(shape)


def _numbers(which: Which, P: int) -> list[int]:
    numbers = [which] if isinstance(which, int) else list(range(P)[which] if isinstance(which, slice) else which)
    outside = [n for n in numbers if not -P <= n < P]
    if outside or not numbers:
        raise ValueError(
            f"columns are {outside or which}, and all groups together name {P}; expected each of 0 to {P - 1} in one "
            "group, and none left out"
        )
    return [n % P for n in numbers]


def _check_cover(columns: list[list[int]], P: int) -> None:
    named = sorted(n for numbers in columns for n in numbers)
    if named != list(range(P)):
        twice, left = sorted({n for n in named if named.count(n) > 1}), sorted(set(range(P)) - set(named))
        raise ValueError(f"columns {twice} are named twice and {left} not at all; expected each of 0 to {P - 1} once")


def _check_part(numbers: list[int], likelihood: nn.Module) -> None:
    shape = getattr(getattr(likelihood, "net", None), "out_shape", (len(numbers),))
    if shape != (len(numbers),):
        raise ValueError(
            f"{type(likelihood).__name__} of columns {numbers} has a network that returns {tuple(shape)}; expected "
            f"({len(numbers)},), a number for each column"
        )
