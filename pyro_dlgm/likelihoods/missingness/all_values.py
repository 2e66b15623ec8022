r"""The network of the "agnostic" mechanism: logits that are linear in all values."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

CROSS = 0.1


class AllValues(nn.Module):
    r"""Creates the logits l(x) = A x + c with A = diag(a) + r B, where B has no diagonal; all parameters start at 0.

    r = 0.1 makes the cross terms slower than the own terms a_j by that factor, since Adam moves all parameters at one
    rate. At the start of a training the decoder does not know yet how columns go together, and draws a missing x_j near
    the mean of its column. If high values of x_j hide, the columns that go with it explain that at once; and given
    those columns an observed x_j is higher than such a draw. Then a_j moves in the wrong direction, in which it stays:
    the imputations follow it. With slow cross terms a_j is first to explain what it can.

    Arguments:
        shape: x's shape.
    """

    def __init__(self, shape):
        super().__init__()
        P = prod(shape)
        self.own, self.cross = nn.Parameter(torch.zeros(P)), nn.Parameter(torch.zeros(P, P))
        self.intercept, self.event_dim = nn.Parameter(torch.zeros(P)), len(shape)

    @property
    def weight(self) -> Tensor:
        r"""A, (P, P), in logits per unit of x."""
        others = 1 - torch.eye(len(self.own), dtype=self.own.dtype, device=self.own.device)
        return self.own.diag() + CROSS * others * self.cross

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.flatten(x.dim() - self.event_dim), self.weight, self.intercept).reshape(x.shape)
