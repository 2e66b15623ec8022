r"""A control variate of the gap of BDMC.

Let u and d be the log-weights of a walk upwards and of one downwards, and g = d − u the gap that they leave. Reversed,
the two walks are a pair of the same kind with d and u exchanged, and the density of that pair is e^(−g) times that of
the first one: E[f(g) e^(−g)] = E[f(−g)] for every f, a fluctuation theorem. With f = −1 above −a, and 0 below,

    E[1(g < a) − e^(−g) 1(g > −a)] = 0.

Averaged over all pairs of walks of a point, this is 1 − exp(lower − upper) where no gap exceeds a, which is nearly the
noise of upper − lower; and it stays bounded where walks do not agree.

References:
    Crooks, "Entropy production fluctuation theorem and the nonequilibrium work relation for free energy differences"
    (1999). https://arxiv.org/abs/cond-mat/9901352
"""

import torch
from torch import Tensor

LARGE = 3.0  # nats: gaps of two walks from here on are not used, since their e^(−g) has too large a variance


def control(up: Tensor, down: Tensor) -> Tensor:
    r"""Returns a variate of mean 0 and nearly the noise of upper − lower, (B,), from log-weights of both, (C, B)."""
    g = down - up.unsqueeze(1)
    return ((g < LARGE).to(g) - torch.where(g > -LARGE, (-g).exp(), 0.0)).mean((0, 1))
