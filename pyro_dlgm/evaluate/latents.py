r"""What there is to see in the latents: which of them q uses, what each one does, and how the points lie."""

from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 3.0  # standard deviations of the prior, to both sides


def marginal_kl(q, p) -> Tensor:
    r"""KL(q_j ‖ p_j) of each latent, (B, D), between Gaussians with the means and variances of the marginals.

        KL_j = ½ [(s_j² + (m_j − a_j)²) / b_j² − 1 − log (s_j² / b_j²)]

    Their sum is KL(q ‖ p) where q is Gaussian with independent latents, and less where they are correlated.

    Arguments:
        q: q(t | x), of batch shape (B,) and event shape (D,), with a density.
        p: p(t), of event shape (D,).
    """
    ratio = q.variance / p.variance
    return 0.5 * (ratio + (q.mean - p.mean).square() / p.variance - 1 - ratio.log())


def use(q, p, has_density: bool) -> Tensor:
    r"""How much q uses each latent, (D,), a mean over its points, in nats.

    It is the KL of the marginals; where q has no density, (m_j − a_j)² / (2 b_j²), what the prior charges for the mean
    of q.
    """
    if has_density:
        return marginal_kl(q, p).mean(0)
    return 0.5 * ((q.mean - p.mean).square() / p.variance).mean(0)


def traversal(model, t: Tensor, latents: list[int], steps: int) -> Tensor:
    r"""The mean of p(x | t) while one latent after the other goes from −3 to 3 deviations of the prior.

    Arguments:
        model: a `DLGM`.
        t: the code (D,) at which the other latents stay.
        latents: which ones go, n of them.
        steps: where each stops on its way, S places.

    Returns:
        A tensor of shape (n, S, ...).
    """
    p = model.prior()
    codes = t.repeat(len(latents), steps, 1)
    way = torch.linspace(-REACH, REACH, steps, dtype=t.dtype, device=t.device)
    for row, j in enumerate(latents):
        codes[row, :, j] = p.mean[j] + way * p.stddev[j]
    return model.likelihood(codes).mean


@dataclass
class Plane:
    r"""Points in two dimensions.

    Attributes:
        points: (N, 2).
        axes: what the two axes are.
    """

    points: Tensor
    axes: tuple[str, str]


def plane(means: Tensor) -> Plane:
    r"""Codes (N, D) in the plane: two latents as they are, one with nothing beside it, more by PCA."""
    D = means.shape[1]
    if D <= 2:
        points = torch.nn.functional.pad(means, (0, 2 - D))
        return Plane(points, ("posterior mean of t1", "posterior mean of t2" if D == 2 else "(one latent only)"))
    centred = means - means.mean(0)
    U, S, _ = torch.linalg.svd(centred, full_matrices=False)
    share = S.square() / S.square().sum().clamp_min(torch.finfo(S.dtype).tiny)
    points = torch.nn.functional.pad(U * S, (0, 2))[:, :2]  # a single point has one component
    names = (f"PCA {j + 1}, {float(v):.0%} of the variance" for j, v in enumerate([*share, 0.0][:2]))
    return Plane(points, tuple(names))
