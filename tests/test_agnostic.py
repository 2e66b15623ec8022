"""A mechanism that is linear in all values learns from data whose mask follows a column that is itself missing."""

import pytest
import torch

from pyro_dlgm import DLGM, evaluate, fit, guides, likelihoods, nets, priors

N, P, SLOPE = 400, 3, 5.0


def table(seed: int):
    r"""Rows of one factor. The second column is missing by chance; the first one where the second is high."""
    torch.manual_seed(seed)
    x = 0.5 * torch.randn(N, 1) + torch.randn(N, P)
    missing = torch.stack([torch.rand(N) < (SLOPE * x[:, 1]).sigmoid(), torch.rand(N) < 0.4, torch.zeros(N) > 0], 1)
    return x, ~missing


def fitted(x, mask, mechanism, steps):
    r"""The likelihood, and the error of imputations of the second column in standard deviations."""
    torch.manual_seed(0)
    p = likelihoods.FixedNormal(nets.Linear(1, P))
    p = p if mechanism is None else likelihoods.Missingness(p, mechanism)
    model, guide = DLGM(priors.StandardNormal(1), p), guides.FullRank(N, 1)
    fit(model, guide, x, mask=mask, steps=steps, batch_size=N, lr=1e-1, seed=0)
    made = evaluate.impute(model, guide, x, torch.arange(N), 20, mask=mask, seed=0)
    off = (made - x)[:, 1][~mask[:, 1]]
    return p, float(off.square().mean().sqrt() / x[:, 1].std())


@pytest.fixture(scope="module")
def agnostic():
    x, mask = table(0)
    return (x, mask, *fitted(x, mask, "agnostic", 1000))  # cross terms are slow


def of_the_mask(logits, mask):
    r"""log p(m | x) of each point."""
    return torch.nn.functional.logsigmoid(logits.where(~mask, -logits)).sum(1)


def test_it_tells_the_masks_of_new_points_better_than_missing_at_random(agnostic):
    _, mask, p, _ = agnostic
    x, new = table(1)
    with torch.no_grad():
        ours = of_the_mask(p.mechanism(x), new)
        at_random = of_the_mask((~mask).double().mean(0).clamp(1e-3, 1 - 1e-3).logit().expand(N, P), new)
        truth = of_the_mask(torch.stack([SLOPE * x[:, 1], *torch.tensor([[0.4], [1e-9]]).logit().expand(2, N)], 1), new)
    gain, most = (float((v - at_random).mean()) for v in (ours, truth))
    assert 2 / 3 * most < gain <= most and most > 0.4
    A = p.mechanism.net.weight
    assert A[0, 1] == A.abs().max() > 2  # the direction: the first column is missing where the second is high


def test_a_missing_value_is_told_by_which_others_are_missing(agnostic):
    x, mask, _, error = agnostic
    _, at_random = fitted(x, mask, None, 300)
    assert error < at_random - 0.15
