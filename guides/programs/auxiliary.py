r"""The site of u in the guide of a program: auxiliary, with axes for the program's plates."""

from typing import ClassVar

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Size, Tensor


class Auxiliary(Messenger):
    r"""Creates the handler that marks sites as auxiliary, since the model has no sites of their names.

    Arguments:
        num: the number of plates of the program to the right of that over points.
    """

    def __init__(self, num: int):
        super().__init__()
        self.num = num

    def _pyro_sample(self, msg) -> None:
        msg["infer"] = msg["infer"] | {"is_auxiliary": True}
        if self.num:
            msg["fn"] = Unsqueezed(msg["fn"], self.num)
            if msg["value"] is not None:  # of a factor
                msg["value"] = msg["value"].reshape(msg["fn"].batch_shape + msg["fn"].event_shape)


class Unsqueezed(dist.TorchDistribution):
    r"""Creates a distribution of batch shape (B, 1, ..., 1) from one of batch shape (B,).

    Arguments:
        q: of batch shape (..., B).
        num: the number of axes of size 1.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, q, num: int):
        self.q, self.num, self.has_rsample = q, num, q.has_rsample
        super().__init__(q.batch_shape + (1,) * num, q.event_shape, validate_args=False)

    @property
    def support(self):
        r"""The support of q."""
        return self.q.support

    def expand(self, batch_shape, _instance=None) -> "Unsqueezed":
        r"""Expands the batch shape on the left."""
        return Unsqueezed(self.q.expand(Size(batch_shape)[: -self.num]), self.num)

    def rsample(self, sample_shape=()) -> Tensor:
        r"""Returns draws of the shape ``sample_shape`` + batch shape + event shape."""
        return self.q.rsample(Size(sample_shape)).reshape(self._extended_shape(Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-density of q, with the axes of size 1."""
        flat = value.reshape(value.shape[: -1 - self.num] + value.shape[-1:])
        log_prob = self.q.log_prob(flat)
        return log_prob.reshape(log_prob.shape + (1,) * self.num)
