r"""From an encoder to rows and back, in the middle of a training: q stays where it was, and optimizers go on."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_dlgm import PPCA, evaluate, fit, guides, nets, to_encoder, to_rows
from pyro_dlgm.training.handover import kl

N, P, D = 60, 5, 2
INDEX = torch.arange(N)


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, D, generator=generator) @ torch.randn(D, P, generator=generator) + 0.3 * torch.randn(
        N, P, generator=generator
    )


def program(x, index=None, *, size=None):
    scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
    with pyro.plate("cells", size or len(x), subsample=index if size else None, dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        r = pyro.sample("r", dist.Gamma(2.0, 1.0))
        loc = torch.stack(torch.broadcast_tensors(z, r, z, r, z + r), -1)
        pyro.sample("x", dist.Normal(loc, scale.unsqueeze(-1)).to_event(1), obs=x)


def encoder(family="mean_field"):
    return guides.Amortized(nets.MLP(P, 16, hidden=(16,)), D, family)


def auto():
    return guides.AutoAmortized(program, nets.MLP(P, 16, hidden=(16,)), plate="cells")


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_rows_start_at_the_q_of_the_encoder(x, family):
    model = PPCA.fit(x, D)
    former = fit(model, encoder(family), x, epochs=2, seed=0)
    rows = to_rows(former, x)
    before, after = former.guide.posterior(x), rows.guide.posterior(index=INDEX)
    torch.testing.assert_close(after.mean, before.mean)
    torch.testing.assert_close(after.stddev, before.stddev)
    assert rows.model is model and type(rows.guide) is {"mean_field": guides.MeanField}.get(family, guides.FullRank)


def test_the_moments_of_w_go_on_and_those_of_new_rows_begin(x):
    model = PPCA.fit(x, D)
    model.likelihood.requires_grad_(True)
    former = to_rows(fit(model, encoder(), x, steps=7, batch_size=20, seed=0), x)
    w = next(p for p in model.parameters() if p.requires_grad)
    (old,) = [o.state[w] for o in former.optimizers if w in o.state]
    steps = float(old["step"])
    result = fit(*(former.model, former.guide), x, steps=3, batch_size=20, seed=0, start=former)
    (new,) = [o.state[w] for o in result.optimizers if w in o.state]
    assert (steps, float(new["step"])) == (7, 10)
    assert float(old["step"]) == 7  # the former one keeps its own
    table = former.guide.rows.weight
    (state,) = [o.state[table] for o in result.optimizers if table in o.state]
    assert float(state["visits"].max()) == 1


def test_going_on_with_the_former_result_is_one_training(x):
    def training(*parts):
        torch.manual_seed(0)
        pair, result = (PPCA.fit(x, D), guides.MeanField(N, D)), None
        for steps in parts:
            result = fit(*pair, x, steps=steps, batch_size=N, schedule="constant", start=result)
        return pair[1].rows.weight.detach()

    torch.testing.assert_close(training(3, 3), training(6), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(training(3), training(6), atol=1e-3)


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_an_encoder_distils_the_rows(x, family):
    model = PPCA.fit(x, D).requires_grad_(False)
    rows = evaluate.infer(
        model, {"mean_field": guides.MeanField, "full_rank": guides.FullRank}[family](N, D), x, seed=0
    )
    former = fit(model, rows, x, steps=1, lr=1e-9, row_lr=1e-9, seed=0)
    result = to_encoder(former, encoder(family), x, epochs=300, batch_size=20, lr=1e-2, seed=0)
    kls = [record["kl"] for record in result.history]
    assert kls[-1] < 0.02 < kls[0]
    # the posterior of PPCA is linear in x: what the encoder leaves of F is what it leaves of the KL
    F_rows = evaluate.elbo(model, rows, x, INDEX, 500, seed=0).mean()
    F_encoder = evaluate.elbo(model, result.guide, x, None, 500, seed=0).mean()
    assert abs(float(F_rows - F_encoder)) < 0.1


def test_kl_is_that_of_dense_gaussians():
    torch.manual_seed(0)
    mean, raw = guides.MeanField(3, D), guides.FullRank(3, D)
    with torch.no_grad():
        raw.rows.weight.add_(0.5 * torch.randn_like(raw.rows.weight))
    q, p = mean.posterior(index=INDEX[:3]), raw.posterior(index=INDEX[:3])
    dense = [
        MultivariateNormal(each.mean, each.covariance_matrix)
        if each is p
        else MultivariateNormal(each.mean, each.variance.diag_embed())
        for each in (q, p)
    ]
    torch.testing.assert_close(kl(q, p), kl_divergence(*dense))
    torch.testing.assert_close(kl(p, q), kl_divergence(*dense[::-1]))
    torch.testing.assert_close(kl(q, q), torch.zeros(3))


def test_programs_hand_over_with_their_globals(x):
    former = fit(program, auto(), x, epochs=2, batch_size=20, seed=0)
    centre = former.guide.centre()
    rows = to_rows(former, x)
    torch.testing.assert_close(rows.guide.posterior(index=INDEX).mean, former.guide.posterior(x).mean)
    result = fit(program, rows.guide, x, epochs=2, batch_size=20, seed=0, start=rows)
    assert rows.guide.centre()["scale"] != centre["scale"]  # they train again
    back = to_encoder(result, auto(), x, epochs=3, seed=0)
    assert torch.equal(back.guide.centre()["scale"], rows.guide.centre()["scale"])
    before = copy.deepcopy(back.guide.centre())
    fit(program, back.guide, x, epochs=1, batch_size=20, seed=0, start=back)
    assert back.guide.centre()["scale"] != before["scale"]


def test_what_has_no_encoder_or_no_rows_is_refused_by_name(x):
    model = PPCA.fit(x, D)
    rows, point = (fit(model, g(N, D), x, steps=1, seed=0) for g in (guides.MeanField, guides.PointEstimate))
    with pytest.raises(TypeError, match="MeanField; expected one with an encoder"):
        to_rows(rows, x)
    with pytest.raises(TypeError, match="PointEstimate; expected rows with a density"):
        to_encoder(point, encoder(), x)
    with pytest.raises(TypeError, match="new guide is a MeanField; expected Amortized"):
        to_encoder(rows, guides.MeanField(N, D), x)
    with pytest.raises(ValueError, match="60 points"):
        to_encoder(rows, encoder(), x[:10])
