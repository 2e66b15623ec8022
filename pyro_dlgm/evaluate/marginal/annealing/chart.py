r"""Coordinates of t in which q has the same scale in all directions, and walks take steps of one length.

For a Gaussian q = N(m, L Lᵀ), t = m + L z, and q is N(0, I) in z. For any other q only the scale of each dimension is
used. Log-weights are differences of log-densities, in which the constant log det L cancels.
"""

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ....distributions import stddev


class Chart:
    r"""Creates the coordinates z of t that follow from q, for B points at a time.

    Arguments:
        q: a distribution of batch shape (B,) and event shape (D,).

    Attributes:
        scale: the scale of steps in z, (B, D).
    """

    def __init__(self, q):
        self.q, self.whitens = q, isinstance(q, MultivariateNormal)
        self.scale = torch.ones_like(q.loc) if self.whitens else stddev(q)

    def into(self, t: Tensor) -> Tensor:
        r"""Returns z (..., B, D) for t."""
        if not self.whitens:
            return t
        return torch.linalg.solve_triangular(self.q.scale_tril, (t - self.q.loc).unsqueeze(-1), upper=False).squeeze(-1)

    def out(self, z: Tensor) -> Tensor:
        r"""Returns t (..., B, D) for z."""
        return self.q.loc + (self.q.scale_tril @ z.unsqueeze(-1)).squeeze(-1) if self.whitens else z

    def log_q(self, z: Tensor) -> Tensor:
        r"""Returns log q(t | x) (..., B) at the t of z, a density with respect to t."""
        if not self.whitens:
            return self.q.log_prob(z)
        log_det = self.q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi)) - log_det
