r"""Mechanisms p(m | x): networks from x to the logits of being missing, and the integral over missing values."""

from abc import abstractmethod

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


class Mechanism(nn.Module):
    r"""Creates p(m | x) = ∏_j σ(−l_j(x))^{m_j} σ(l_j(x))^{1 − m_j}: the logit l_j is that of x_j being missing.

    A subclass defines the logits (`forward`) and integrates over the missing values (`log_mask`, `completion`).
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        r"""Returns the logits l(x) of being missing, (..., *event), for x (..., *event)."""

    @abstractmethod
    def log_mask(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> Tensor:
        r"""Returns log p(m | t, x_o) = log ∫ p(x_m | t) p(m | x) dx_m, (...), in nats.

        Arguments:
            p: the pixels given t, of batch shape (..., *event).
            x: data (..., *event), 0 where missing.
            mask: boolean, True where observed, of a shape (..., *event) that broadcasts with p's.
            event_dim: the number of axes of a point.
        """

    @abstractmethod
    def completion(self, p: dist.Normal, x: Tensor, mask: Tensor, event_dim: int) -> dist.TorchDistribution:
        r"""Returns p(x_m | t, x_o, m), as a distribution of all of x that equals x where it is observed."""

    def draw(self, x: Tensor) -> Tensor:
        r"""Draws a mask, True where observed, for complete x."""
        return dist.Bernoulli(logits=-self(x)).sample().bool()


def log_prob(logits: Tensor, mask: Tensor) -> Tensor:
    r"""Returns log p(m_j | x) of each value: log σ(−l) where it is observed, log σ(l) where it is missing."""
    return logsigmoid(logits.where(~mask, -logits))
