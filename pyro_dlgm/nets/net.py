r"""Deterministic networks for any leading shape: their base, linear networks, and perceptrons.

Each maps points of shape ``in_shape`` to points of shape ``out_shape``: (..., *in_shape) -> (..., *out_shape). All
leading axes are flattened for the body and restored afterwards, so that networks also work for particles, chains and
enumeration, which add axes on the left. With ``heads=k`` the call returns a tuple of k tensors of ``out_shape``.
"""

import contextlib
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from .. import messages

Shape = int | Sequence[int]


def as_shape(shape: Shape) -> tuple[int, ...]:
    r"""Returns a shape as a tuple: 5 -> (5,)."""
    return (shape,) if isinstance(shape, int) else tuple(shape)


@contextlib.contextmanager
def shapes_checked(what: str, shape: Sequence[int], expected: str):
    r"""Context manager: turns an error of torch in a network, such as "mat1 and mat2", into one that names the network.

    Arguments:
        what: the network.
        shape: of its input.
        expected: what it should accept and return.

    Raises:
        ValueError: instead of a `RuntimeError`, other than one of memory or of a method that is not there.
    """
    try:
        yield
    except (torch.OutOfMemoryError, NotImplementedError):  # the latter has its own message
        raise
    except RuntimeError as error:
        said = messages.line(error)
        raise ValueError(f"{what} failed at shape {tuple(shape)} ({said}); expected {expected}") from error


class Net(nn.Module):
    r"""Creates a network from a body on (n, *in_shape) -> (n, heads · out_shape[0], *out_shape[1:]).

    Arguments:
        in_shape, out_shape: shapes of one point, without the batch.
        body: the module that does the work.
        heads: the number of outputs of ``out_shape``.

    Raises:
        ValueError: if a side or the number of heads is below 1; in a call, if points have another shape or dtype, or
            the body returns another number of values.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, body: nn.Module, heads: int = 1):
        super().__init__()
        self.in_shape, self.out_shape, self.heads = as_shape(in_shape), as_shape(out_shape), heads
        if min((*self.in_shape, *self.out_shape, heads)) < 1:
            raise ValueError(
                f"{type(self).__name__} from {self.in_shape} to {self.out_shape} with {heads} heads; "
                "expected sides, channels and heads of at least 1"
            )
        self.body = body
        self.out_features = prod(self.out_shape)  # the number of values of one output, which guides need

    def forward(self, v: Tensor):
        lead = v.shape[: v.dim() - len(self.in_shape)]
        if v.shape[len(lead) :] != self.in_shape:
            point = tuple(v.shape[max(1, len(lead)) :])
            raise ValueError(
                f"{type(self).__name__} got points of shape {point} (a batch {tuple(v.shape)}); expected points of "
                f"shape {self.in_shape}: reshape them, or build the network for their shape"
            )
        return self._body(v, lead)

    def _body(self, v: Tensor, lead: Sequence[int]):
        return self._headed(self._run(v.reshape(-1, *self.in_shape)), lead, 1)

    def _headed(self, y: Tensor, lead: Sequence[int], dim: int):
        r"""Returns the outputs of the body, with heads concatenated along ``dim``, as tensors (*lead, *out_shape)."""
        if y.numel() != prod(lead) * self.heads * self.out_features:
            raise ValueError(
                f"the body of {type(self).__name__} returned shape {tuple(y.shape)} for {prod(lead)} points; expected "
                f"{self.heads * self.out_features} numbers for each, {self.heads} x out_shape {self.out_shape}: change "
                "the last layer of the body, or out_shape"
            )
        if self.heads == 1:
            return y.reshape((*lead, *self.out_shape))
        return tuple(h.reshape((*lead, *self.out_shape)) for h in y.chunk(self.heads, dim=dim))

    def _run(self, v: Tensor):
        try:
            return self.body(v)
        except RuntimeError as error:
            # Checked only after an error, since other dtypes are valid under autocast.
            weight = next(self.parameters(), v)
            if (v.dtype, v.device) == (weight.dtype, weight.device):
                raise
            raise ValueError(
                f"{type(self).__name__} got {v.dtype} on {v.device}; expected {weight.dtype} on {weight.device}, as "
                f"its weights are: use .to({weight.device}, {weight.dtype}) on the input, or move the network"
            ) from error


class MLP(Net):
    r"""Creates a multilayer perceptron on flattened points.

    Arguments:
        in_shape, out_shape: shapes of one point; () for a number.
        hidden: widths of the hidden layers.
        activation: class of the nonlinearity.
        heads: the number of outputs.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, hidden=(200, 200), *, activation=nn.ELU, heads: int = 1):
        widths = [prod(as_shape(in_shape)), *hidden]
        layers: list[nn.Module] = [nn.Flatten(-len(as_shape(in_shape))) if as_shape(in_shape) else Lift()]
        for before, after in pairwise(widths):
            layers += [Affine(before, after), activation()]
        last = Affine(widths[-1], heads * prod(as_shape(out_shape)))
        super().__init__(in_shape, out_shape, nn.Sequential(*layers, last), heads)

    def _body(self, v: Tensor, lead: Sequence[int]):
        # Leading axes are kept: those of sampled weights are added on their left.
        y = self._run(v)
        return self._headed(y, y.shape[:-1], -1)


class Lift(nn.Module):
    r"""Creates v -> v with an axis of length 1 on the right, (...) -> (..., 1)."""

    def forward(self, v: Tensor) -> Tensor:
        return v.unsqueeze(-1)


class Affine(nn.Linear):
    r"""Creates v -> W v + b that also takes sampled weights, W (..., out, in) and b (..., out): leading axes broadcast.

    A Bayesian W drawn for P particles has the shape (P, 1, out, in), and v (..., B, in) becomes (P, B, out).
    """

    def forward(self, v: Tensor) -> Tensor:
        W, b = self.weight, self.bias
        if W.dim() == 2 and b.dim() == 1:
            return nn.functional.linear(v, W, b)
        if W.dim() > 2 and W.shape[-3] > 1:  # a W for each point
            return (W @ v.unsqueeze(-1)).squeeze(-1) + b
        return v @ (W.squeeze(-3) if W.dim() > 2 else W).mT + b


class Linear(MLP):
    r"""Creates v -> W v + b, on flattened points.

    Example:
        >>> import torch
        >>> Linear(2, (1, 4, 4))(torch.zeros(3, 2)).shape
        torch.Size([3, 1, 4, 4])
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, *, heads: int = 1):
        super().__init__(in_shape, out_shape, (), heads=heads)


class Log1p(nn.Module):
    r"""Creates v -> log(1 + v), the input of an encoder of counts or amounts; numbers below 0 count as 0.

    Arguments:
        columns: which numbers of the last axis are replaced, the others stay as they are; `None`: all of x.

    Example:
        >>> Log1p([1])(torch.tensor([[-5.0, 0.0], [3.0, 99.0]]))
        tensor([[-5.0000,  0.0000],
                [ 3.0000,  4.6052]])
    """

    def __init__(self, columns: Iterable[int] | None = None):
        super().__init__()
        index = None if columns is None else torch.tensor(list(columns), dtype=torch.long)
        self.register_buffer("columns", index, persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        if self.columns is None:
            return v.clamp_min(0).log1p()
        return v.index_copy(-1, self.columns, v.index_select(-1, self.columns).clamp_min(0).log1p())
