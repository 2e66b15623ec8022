r"""Classes 0, ..., K − 1."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from .base import Likelihood, check_heads, heads


class Categorical(Likelihood):
    r"""Creates p(x | t, w) = ∏_j softmax(l_j1(t, w), ..., l_jK(t, w))[x_j], for classes x_j in 0, ..., K − 1.

    Classes have no order and no mean: `evaluate.reconstruct` and `evaluate.impute` return the most probable one.

    Arguments:
        net: a network with K heads, each of x's shape: the logits of the classes.
        num_classes: K, at least 2.

    Raises:
        ValueError: if there are fewer than two classes, or the network has another number of heads.

    Example:
        >>> from pyro_dlgm import nets
        >>> p = Categorical(nets.Linear(2, 5, heads=3), 3)
        >>> p(torch.zeros(4, 2)).log_prob(torch.tensor([0, 1, 2, 1, 0])).shape
        torch.Size([4])
    """

    def __init__(self, net: nn.Module, num_classes: int):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; expected at least 2")
        self.net, self.num_classes = net, num_classes
        self.takes = f"classes, whole numbers 0 to {num_classes - 1}: number them so, or build it for more classes"
        check_heads(net, num_classes, self._what())

    def pixels(self, t: Tensor) -> "CategoricalPixels":
        return CategoricalPixels(torch.stack(heads(self.net(t), self.num_classes, self._what()), -1))

    def _what(self) -> str:
        return f"{self.num_classes}, one for each class"


class CategoricalPixels(dist.TorchDistribution):
    r"""Creates the distribution over classes, as numbers of the type of l, with the probabilities softmax(l).

    Arguments:
        logits: l, (..., K).
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None):
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        r"""Whole numbers 0, ..., K − 1, of any type."""
        return constraints.integer_interval(0, self.logits.shape[-1] - 1)

    def expand(self, batch_shape, _instance=None) -> "CategoricalPixels":
        r"""Returns the same distribution with batch axes added on the left."""
        return type(self)(self.logits.expand(*batch_shape, -1), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-probability of each class; −∞ for any other value, NaN included."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        known = value.nan_to_num(0).clamp(0, self.logits.shape[-1] - 1).long()
        log_p = self.logits.log_softmax(-1).expand(*shape, -1)
        found = log_p.gather(-1, known.expand(shape).unsqueeze(-1)).squeeze(-1)
        return torch.where(known == value, found, -torch.inf)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Draws classes: the argmax of l plus Gumbel noise."""
        with torch.no_grad():
            l = self.logits.expand(*self._extended_shape(sample_shape), -1)
            return (l - torch.empty_like(l).exponential_().log()).argmax(-1).to(l.dtype)

    @property
    def mean(self) -> Tensor:
        r"""NaN: classes have no mean."""
        return self.logits.new_full(self.batch_shape, torch.nan)

    variance = mean

    @property
    def averaged(self) -> Tensor:
        r"""What to average over t for a guess at x: the probabilities (..., K)."""
        return self.logits.softmax(-1)

    @staticmethod
    def guess(averaged: Tensor) -> Tensor:
        r"""Returns the most probable class, from averaged probabilities (..., K)."""
        return averaged.argmax(-1).to(averaged.dtype)
