r"""Networks on flattened points: linear, and multilayer perceptrons."""

from itertools import pairwise
from math import prod

from torch import nn

from .net import Net, Shape, as_shape


class Linear(Net):
    r"""Creates v -> W v + b, on flattened points.

    Example:
        >>> import torch
        >>> Linear(2, (1, 4, 4))(torch.zeros(3, 2)).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, heads: int = 1):
        n_in, n_out = prod(as_shape(in_shape)), prod(as_shape(out_shape))
        super().__init__(in_shape, out_shape, nn.Sequential(nn.Flatten(), nn.Linear(n_in, heads * n_out)), heads)


class MLP(Net):
    r"""Creates a multilayer perceptron on flattened points.

    Arguments:
        in_shape, out_shape: shapes of one point.
        hidden: widths of the hidden layers.
        activation: class of the nonlinearity.
        heads: the number of outputs.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, hidden=(200, 200), *, activation=nn.ELU, heads: int = 1):
        widths = [prod(as_shape(in_shape)), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        last = nn.Linear(widths[-1], heads * prod(as_shape(out_shape)))
        super().__init__(in_shape, out_shape, nn.Sequential(*layers, last), heads)
