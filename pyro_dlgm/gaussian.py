r"""The Kullback-Leibler divergence where both sides are Gaussian."""

from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence


def kl(q, p) -> Tensor | None:
    r"""KL(q ‖ p) in closed form if both are Gaussian with diagonal p, else `None`.

    For q = N(m, L Lᵀ) and p = N(a, diag b²):

        KL = ½ Σ_j [((LLᵀ)_jj + (m_j − a_j)²) / b_j² − 1 + log b_j²] − Σ_j log L_jj .

    Arguments:
        q: a distribution of event shape (D,).
        p: a distribution of event shape (D,).

    Returns:
        Nats, of the broadcast batch shape, or `None`: then one samples it.
    """
    if not diagonal(p):
        return None
    if diagonal(q):
        return kl_divergence(q.base_dist, p.base_dist).sum(-1)
    if not isinstance(q, MultivariateNormal):
        return None
    L, a, b = q.scale_tril, p.base_dist.loc, p.base_dist.scale
    square = (L.square().sum(-1) + (q.loc - a).square()) / b.square()
    return 0.5 * (square - 1).sum(-1) + b.log().sum(-1) - L.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def diagonal(d) -> bool:
    r"""Whether d is a diagonal Gaussian of event shape (D,)."""
    return isinstance(d, Independent) and isinstance(d.base_dist, Normal) and d.reinterpreted_batch_ndims == 1
