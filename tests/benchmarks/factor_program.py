r"""A program with exact answers: latent factors of points and latent loadings.

z_i ~ N(0, I), W_jk ~ N(0, 1), x_i ~ N(z_i W, s² I), so p(x | W) = N(0, WᵀW + s² I),
and E[z | x, W] = (W Wᵀ + s² I)⁻¹ W x .
"""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

FACTORS, FEATURES, NOISE = 5, 20, 0.5
HELD_OUT = 2_000


def program(x=None, index=None, *, size=None):
    r"""The program, with W outside of the plate over points."""
    W = pyro.sample("W", dist.Normal(torch.zeros(FACTORS, FEATURES), 1.0).to_event(2))
    with pyro.plate("data", size or len(x), subsample=index if size else None):
        z = pyro.sample("z", dist.Normal(torch.zeros(FACTORS), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ W, NOISE).to_event(1), obs=x)


def plates(x=None, index=None, *, size=None):
    r"""The plate, for Pyro's autoguides: without it they train the wrong rows."""
    return pyro.plate("data", size, subsample=index, dim=-1)


def simulated(num_points: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    r"""Training points (N, P) and held-out points of one true W."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(FACTORS, FEATURES, generator=generator)
    z = torch.randn(num_points + HELD_OUT, FACTORS, generator=generator)
    x = z @ W + NOISE * torch.randn(len(z), FEATURES, generator=generator)
    return x[:num_points], x[num_points:]


def log_px(W: Tensor, x: Tensor) -> float:
    r"""The mean of log p(x | W) over points, in nats."""
    W, x = W.detach().double(), x.double()
    covariance = W.mT @ W + NOISE**2 * torch.eye(FEATURES, dtype=torch.float64)
    return float(dist.MultivariateNormal(torch.zeros_like(x[0]), covariance).log_prob(x).mean())


def posterior_means(W: Tensor, x: Tensor) -> Tensor:
    r"""E[z | x, W] of the points, (N, D)."""
    W = W.detach()
    return torch.linalg.solve(W @ W.mT + NOISE**2 * torch.eye(FACTORS), W @ x.mT).mT


def best_loadings(x: Tensor) -> Tensor:
    r"""The W of the largest likelihood of the points, in closed form: Λ^½ Uᵀ, Λ what s² leaves of the eigenvalues."""
    values, U = torch.linalg.eigh(x.double().mT @ x.double() / len(x))
    values, U = values[-FACTORS:], U[:, -FACTORS:]
    return ((values - NOISE**2).clamp(min=0).sqrt() * U).mT
