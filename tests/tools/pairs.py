r"""Small pairs, and what is known of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import cases
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_dlgm import DLGM, guides, likelihoods, nets, priors

N, B, INDEX = cases.N, cases.B, cases.INDEX


@dataclass
class Pair:
    r"""A model and a guide with a batch of B of N points, and log p(x | w) of these where it is known."""

    model: DLGM
    guide: guides.Guide
    everything: Tensor
    evidence: Tensor | None = None
    index: Tensor = INDEX

    @property
    def x(self) -> Tensor:
        return self.everything[self.index]

    @property
    def args(self) -> tuple[Tensor, Tensor]:
        return self.x, self.index

    @property
    def whole(self) -> tuple[Tensor, Tensor]:
        return self.everything, torch.arange(N)


def exact(wider: float = 1.0) -> Pair:
    r"""One linear latent, in float64. q_i is p(t | x_i, w): each log-weight is log p(x_i | w), whatever is drawn.

    With ``wider`` its scales are that many times as large, so that weights vary.
    """
    model, x = cases.ppca(6, 1).double(), torch.randn(N, 6).double()
    guide, p = guides.MeanField(N, 1).double(), model.posterior(x)
    guide.set_rows(torch.cat([p.mean, (wider * p.stddev).log()], -1))
    return Pair(model, guide, x, model.log_prob(x)[INDEX].detach())


def linear() -> Pair:
    r"""Two linear latents, in float64, with rows that are not fitted: F(q) has a closed form, `bound`."""
    model, guide = cases.ppca().double(), guides.MeanField(N, 2, init_scale=0.5).double()
    return Pair(model, guide, torch.randn(N, 6).double())


def images() -> Pair:
    r"""Convolutions on both sides, in float32."""
    model = cases.conv()
    return Pair(model, cases.amortized(model), cases.points(model, N))


def divergence(pair: Pair) -> Tensor:
    r"""KL(q_i ‖ p(t)) of each point of the batch."""
    q = pair.guide.posterior(*pair.args)
    return kl_divergence(q.base_dist, torch.distributions.Normal(0.0, 1.0)).sum(-1).detach()


def likelihood(pair: Pair) -> Tensor:
    r"""E_q log p(x_i | t) of each point of the batch, for linear μ."""
    q, W, s2 = pair.guide.posterior(*pair.args), pair.model.W, pair.model.sigma2
    p = dist.Normal(q.mean @ W.mT + pair.model.mu, s2.sqrt()).to_event(1)
    return (p.log_prob(pair.x) - (q.variance @ W.square().mT).sum(-1) / (2 * s2)).detach()


def bound(pair: Pair) -> float:
    r"""F(q) of the batch, for linear μ."""
    return (likelihood(pair) - divergence(pair)).sum().item()


def close(a, b, rtol: float = 1e-8, atol: float = 1e-8) -> None:
    r"""Numbers, tensors or lists of them agree."""
    a, b = (torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v for v in (a, b))
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol, check_dtype=False)


def about(a, b, atol: float) -> None:
    r"""Estimates agree, within ``atol``."""
    close(a, b, rtol=0.0, atol=atol)


def same_draw(program, *args, **kwargs):
    torch.manual_seed(3)
    return program(*args, **kwargs)


def traced(program, *args, **kwargs):
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return trace


def sites(trace) -> list[str]:
    return [name for name, site in trace.nodes.items() if site["type"] == "sample"]


def check_evidence(loss) -> None:
    r"""The loss is −log p(x | w) with the exact q, without noise, times the scale of the plate."""
    pair = exact()
    for size, scale in ((None, 1.0), (N, N / B)):
        close(loss.loss(pair.model, pair.guide, *pair.args, size=size), -scale * pair.evidence.sum())


def check_moves(pair: Pair, step: Callable, **kwargs):
    r"""The step moves every parameter of model and guide; returns what it returns."""
    before = [cases.tensors(program) for program in (pair.model, pair.guide)]
    result = step(*pair.args, **kwargs)
    assert [cases.unmoved(*moved) for moved in zip((pair.model, pair.guide), before, strict=True)] == [[], []]
    return result


def gradients(pair: Pair, loss, **kwargs) -> list[Tensor]:
    r"""Gradients of one draw of an objective."""
    parameters = [*pair.model.parameters(), *pair.guide.parameters()]
    for p in parameters:
        p.grad = None
    same_draw(loss.loss_and_grads, pair.model, pair.guide, *pair.args, **kwargs)
    return [p.grad.clone() for p in parameters]


def frozen(pair: Pair) -> Pair:
    pair.model.requires_grad_(False).eval()
    return pair


def labelled():
    r"""A linear model of t and a label k, in float64; the program that draws k and t, and its guide for t."""
    model = DLGM(priors.StandardNormal(1), likelihoods.FixedNormal(nets.Linear(1 + 3, 6))).double()
    guide, labels = guides.MeanField(B, 1).double(), torch.eye(3).double()

    def program(x, index=None):
        with pyro.plate("points", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(torch.ones(3).double()), infer={"enumerate": "parallel"})
            return model.datum(x, given=labels[k])

    def q(x, index):
        with pyro.plate("points", len(x), dim=-1):
            return guide.datum(x, index)

    return model, guide, program, q


def check_stock_step(loss, pair: Pair | None = None, **kwargs):
    r"""A step of Pyro's SVI on an objective moves every parameter; returns its loss."""
    pair = pair or exact(2.0)
    return check_moves(pair, cases.stock(pair.model, pair.guide, loss).step, **kwargs)


def single(pair: Pair) -> Pair:
    r"""The pair in float32, as some autoguides want it."""
    return replace(pair, model=pair.model.float(), guide=pair.guide.float(), everything=pair.everything.float())
