r"""Imputations under an exact q are the Gaussian conditional, and are known to be right; wrong ones are named."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch.distributions import MultivariateNormal

from pyro_dlgm import DLGM, PPCA, Points, evaluate, guides, likelihoods, nets, priors

N, P, D = 400, 6, 2


def ppca(num: int = N, seed: int = 0):
    r"""A model, points of it, and a mask that hides about a third of them."""
    torch.manual_seed(seed)
    model = PPCA(D, P).double()
    model.set(torch.randn(P, D).double(), torch.randn(P).double(), torch.tensor(0.4))
    x, mask = model(size=num).detach(), torch.rand(num, P) > 0.35
    mask[:, 0] = True
    mask[0] = torch.tensor([True, True, False, False, True, True])
    return model, x, mask


def conditional(model: PPCA, x: torch.Tensor, mask: torch.Tensor):
    r"""Mean and covariance of the missing entries of one point given the others."""
    with torch.no_grad():
        S = model.W @ model.W.T + model.sigma2 * torch.eye(P).double()
        gain = S[~mask][:, mask] @ torch.linalg.inv(S[mask][:, mask])
        return model.mu[~mask] + gain @ (x - model.mu)[mask], S[~mask][:, ~mask] - gain @ S[mask][:, ~mask]


def rows(model: PPCA, x: torch.Tensor, mask: torch.Tensor, factor: float, shift: float = 0.0) -> guides.FullRank:
    r"""Rows that are the posterior, but for the factor of its scale and a shift of its mean by its scales."""
    with torch.no_grad():
        q = model.posterior(x, mask)
        sd = q.variance.sqrt()
    guide = guides.MeanField(len(x), D).double()
    guide.rows.overwrite(torch.cat([q.mean + shift * sd, (factor * sd).log()], -1))
    return guide


@pytest.mark.parametrize("narrow", [False, True])
def test_draws_have_mean_and_covariance_of_the_conditional(narrow):
    model, x, mask = ppca(3)
    guide = rows(model, x, mask, 1.5, shift=0.5) if narrow else guides.Exact(model)
    hole, M = x.masked_fill(~mask, math.nan), 20_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = evaluate.impute(
            model, guide, hole, torch.arange(3), M, by="draws", mask=mask, num_proposals=20_000, seed=0
        )
    assert made.shape == (M, 3, P)
    for i in range(3):
        mean, covariance = conditional(model, x[i], mask[i])
        found = made[:, i][:, ~mask[i]]
        assert torch.equal(made[:, i][:, mask[i]], x[i, mask[i]].expand(M, -1))
        assert torch.allclose(found.mean(0), mean, atol=0.04)
        assert torch.allclose(found.T.cov().reshape(covariance.shape), covariance, atol=0.05)


def test_a_wrong_q_is_corrected_by_its_weights_alone():
    model, x, mask = ppca(1)
    guide = rows(model, x, mask, 1.5, shift=1.0)
    mean, covariance = conditional(model, x[0], mask[0])
    index, off = torch.zeros(1).long(), {}
    for K in (0, None):
        made = evaluate.impute(model, guide, x, index, 5000, by="draws", mask=mask, num_proposals=K, seed=0)
        off[K] = float(((made[:, 0][:, ~mask[0]].mean(0) - mean) / covariance.diagonal().sqrt()).abs().max())
    assert off[None] < 0.06 < 0.2 < off[0]


def test_single_imputations_are_mean_median_and_mode_of_the_mixture():
    model, x, mask = ppca(2)
    mean, _ = conditional(model, x[0], mask[0])
    kinds = {"mean": 0.05, "median": 0.07, "mode": 0.5}  # of a Gaussian all three are its mean; the errors are theirs
    for by, tol in kinds.items():
        made = evaluate.impute(model, guides.Exact(model), x, None, 4000, by=by, mask=mask, num_proposals=4000, seed=1)
        assert made.shape == x.shape and torch.equal(made[mask], x[mask])
        assert float((made[0, ~mask[0]] - mean).abs().max()) < tol, by


def test_the_mean_is_by_default_that_under_q():
    model, x, mask = ppca(5)
    points, guide = Points(x, None, mask), guides.Exact(model)
    plain = evaluate.reconstruct(model, guide, points, num_samples=100, seed=0)
    assert torch.equal(evaluate.impute(model, guide, points, seed=0), torch.where(mask, x, plain))


def test_median_and_mode_of_skewed_draws():
    from pyro_dlgm.evaluate.imputation.summaries import mode, summary

    torch.manual_seed(0)
    skewed = torch.randn(20_000, 2, dtype=torch.float64).exp()  # median 1, mode e^−1
    no_class = torch.zeros(2, dtype=torch.bool)
    assert (summary(skewed, "median", no_class) - 1).abs().max() < 0.03
    assert (mode(skewed) - math.exp(-1)).abs().max() < 0.15
    counts = torch.poisson(torch.full((2000, 2), 2.6))
    assert mode(counts).tolist() == [2.0, 2.0] and summary(counts, "median", no_class).tolist() == [2.0, 2.0]
    assert mode(torch.poisson(torch.full((2000, 1), 400.0))).item() % 1 == 0


def table():
    r"""Real, count and class columns, which all follow t."""
    real, count, kind = nets.Linear(1, 1), nets.Linear(1, 1), nets.Linear(1, 1, heads=3)
    parts = {
        0: likelihoods.FixedNormal(real, 0.3),
        1: likelihoods.Poisson(count),
        2: likelihoods.Categorical(kind, 3),
    }
    torch.manual_seed(1)
    model = DLGM(priors.StandardNormal(1), likelihoods.Columns(parts)).double()
    with torch.no_grad():
        real.body[-1].weight.fill_(1.0)
        count.body[-1].weight.fill_(0.8)
        kind.body[-1].weight.copy_(torch.tensor([[2.0], [0.0], [-2.0]]))
    return model


@pytest.mark.filterwarnings("ignore:the weights of")
def test_counts_and_classes_are_drawn_as_themselves():
    model = table()
    x = model(size=150).detach()
    mask = torch.rand(150, 3) > 0.4
    q = guides.Amortized(nets.MLP(3, 8), 1).double()
    made = evaluate.impute(model, q, x, None, 30, by="draws", num_proposals=3000, mask=mask, seed=0)
    assert set(made[..., 2].unique().tolist()) == {0.0, 1.0, 2.0}
    assert bool((made[..., 1] == made[..., 1].round()).all()) and bool((made[..., 1] >= 0).all())
    for by in ("median", "mode"):
        one = evaluate.impute(model, q, x, None, 200, by=by, mask=mask, seed=0)
        assert set(one[..., 2].unique().tolist()) <= {0.0, 1.0, 2.0} and torch.equal(one[..., 1], one[..., 1].round())
    found = evaluate.check_imputations(model, q, x, mask=mask, num_proposals=3000, seed=0)
    assert "no departure" in found.verdicts["ranks"] and "no departure" in found.verdicts["columns"]
    assert 0 < found.error_rate < 0.7 and "wrong classes" in str(found)


@pytest.mark.filterwarnings("ignore:the weights of")
def test_whole_numbers_stay_whole_in_type():
    model = DLGM(priors.StandardNormal(1), likelihoods.Poisson(nets.Linear(1, 2)))
    x, mask = torch.tensor([[1, 2], [0, 5]]), torch.tensor([[True, False], [True, True]])
    made = evaluate.impute(model, guides.MeanField(2, 1), x, torch.arange(2), 9, by="draws", mask=mask, seed=0)
    assert made.dtype == torch.int64 and bool((made[:, 1] == x[1]).all())


def test_pixels_that_go_together_are_drawn_given_those_observed():
    torch.manual_seed(0)
    net = nets.Linear(1, 4, heads=4)
    model = DLGM(priors.StandardNormal(1), likelihoods.LowRankNormal(net, 2)).double()
    t, x = torch.randn(1, 1).double(), torch.randn(1, 4).double()
    mask = torch.tensor([[True, False, True, False]])
    with torch.no_grad():
        p = model.likelihood(t)
        S = torch.diag(p.scale[0] ** 2) + p.factor[0] @ p.factor[0].T
        o, h = mask[0], ~mask[0]
        gain = S[h][:, o] @ torch.linalg.inv(S[o][:, o])
        mean, covariance = p.mu[0, h] + gain @ (x[0, o] - p.mu[0, o]), S[h][:, h] - gain @ S[o][:, h]
    guide = guides.PointEstimate(1, 1).double()
    guide.rows.overwrite(t)
    made = evaluate.impute(model, guide, x, torch.zeros(1).long(), 20_000, by="draws", mask=mask, seed=0)[:, 0]
    assert torch.equal(made[:, o], x[:, o].expand(len(made), -1))
    assert torch.allclose(made[:, h].mean(0), mean, atol=0.03)
    assert torch.allclose(made[:, h].T.cov(), covariance, atol=0.04)

    class Joint(likelihoods.FixedNormal):
        event_dim = 1

        def forward(self, t, mask=None, given=None):
            return MultivariateNormal(self.net(t), torch.eye(P).double())

    model = DLGM(priors.StandardNormal(D), Joint(nets.Linear(D, P))).double()
    x, guide = torch.zeros(2, P).double(), guides.Amortized(nets.MLP(P, 8), D).double()
    for how in ({"by": "draws", "num_proposals": 0}, {"by": "mean"}):
        with pytest.raises(ValueError, match=r"MultivariateNormal .* completed\(x, mask\)"):
            evaluate.impute(model, guide, x, None, 5, mask=x > 0, **how)


class Correlated(DLGM):
    r"""x = W t + b + F η + σ ε: t and x are jointly Gaussian, and pixels go together given t."""

    def __init__(self, rank: int = 2):
        net = nets.Linear(D, P, heads=2 + rank)
        with torch.no_grad():
            net.body[-1].weight[P:] = 0.0  # σ and F are the same for every t
        super().__init__(priors.StandardNormal(D), likelihoods.LowRankNormal(net, rank))
        self.double()

    def moments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        r"""W (P, D), b (P,) and the covariance of x given t (P, P)."""
        p, W = self.likelihood(torch.zeros(D).double()), self.likelihood.net.body[-1].weight[:P]
        return W, p.mu, torch.diag(p.scale**2) + p.factor @ p.factor.T

    def posterior(self, x: torch.Tensor, mask: torch.Tensor) -> MultivariateNormal:
        W, b, S = self.moments()
        made = []
        for value, seen in zip(x, mask, strict=True):
            gain = W[seen].T @ torch.linalg.inv(W[seen] @ W[seen].T + S[seen][:, seen])
            made.append((gain @ (value - b)[seen], torch.eye(D).double() - gain @ W[seen]))
        means, covariances = zip(*made, strict=True)
        return dist.MultivariateNormal(torch.stack(means), torch.stack(covariances))

    def exact(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        r"""x (P,) of one point with the missing values replaced by their mean given the others."""
        W, b, S = self.moments()
        S, made = W @ W.T + S, x.clone()
        made[~mask] = b[~mask] + S[~mask][:, mask] @ torch.linalg.solve(S[mask][:, mask], (x - b)[mask])
        return made


def correlated():
    r"""The model, points of it and a mask; a point is complete, another wholly missing."""
    torch.manual_seed(3)
    model, mask = Correlated(), torch.rand(5, P) > 0.4
    x = model(size=5).detach()
    mask[0], mask[1] = True, False
    return model, x.masked_fill(~mask, math.nan), mask


def test_the_mean_of_pixels_that_go_together_is_given_those_observed():
    model, x, mask = correlated()
    with torch.no_grad():
        expected = torch.stack([model.exact(*one) for one in zip(x, mask, strict=True)])
    # Linear in t, so that it is exact at the mean of q.
    found = evaluate.impute(model, guides.Exact(model), x, num_samples=None, mask=mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    sampled = evaluate.impute(model, guides.Exact(model), x, None, 4000, mask=mask, seed=0)
    assert (sampled - expected).abs().max() < 0.05
    with torch.no_grad():  # another one than the mean of p(x | t), which does not see the other pixels of x
        plain = evaluate.reconstruct(model, guides.Exact(model), x, mask=mask)
    assert (plain - expected)[~mask].abs().max() > 0.3


def test_low_rank_pixels_given_some_of_them_are_the_dense_conditional():
    model, x, mask = correlated()
    with torch.no_grad():
        _, b, S = model.moments()
        p = model.likelihood.completed(model.likelihood(torch.zeros(2, 5, D).double()), x, mask)
        assert p.batch_shape == (2, 5) and torch.equal(p.sample()[1][mask], x[mask])
        for i in range(2, 5):
            o, h, value = mask[i], ~mask[i], torch.randn(P).double()
            gain = S[h][:, o] @ torch.linalg.inv(S[o][:, o])
            covariance = S[h][:, h] - gain @ S[o][:, h]
            dense = MultivariateNormal(b[h] + gain @ (x[i] - b)[o], covariance)
            torch.testing.assert_close(p.variance[1, i, h], covariance.diagonal())
            torch.testing.assert_close(p.log_prob(value.expand(5, P))[0, i], dense.log_prob(value[h]))


def test_the_imputer_of_scikit_learn_gives_the_conditional_mean():
    from pyro_dlgm.sklearn import DLGMImputer

    model, x, mask = correlated()
    X = (3 * x + 1).numpy()
    imputer = DLGMImputer(D, likelihood="low-rank", max_iter=1, num_samples=4000, random_state=0).fit(X)
    imputer.model_, imputer.guide_ = model, guides.Exact(model)
    standardized = torch.from_numpy(imputer.units_.standardize(X))
    with torch.no_grad():
        expected = torch.stack([model.exact(*one) for one in zip(standardized, mask, strict=True)])
    found = (imputer.transform(X) - imputer.units_.centre) / imputer.units_.scale
    assert abs(found - expected.numpy()).max() < 0.05


def test_parts_of_a_table_are_given_what_they_need():
    torch.manual_seed(0)
    low = likelihoods.LowRankNormal(nets.Linear(1, 2, heads=3), 1)
    hidden = likelihoods.Missingness(likelihoods.FixedNormal(nets.Linear(1, 2)), "agnostic")
    model = DLGM(priors.StandardNormal(1), likelihoods.Columns({(0, 2): low, (1, 3): hidden}))
    x, mask, t = torch.randn(3, 4), torch.rand(3, 4) > 0.5, torch.randn(3, 1)
    model.eval()
    with torch.no_grad():
        p = model.likelihood.completed(model.likelihood(t), x, mask)
        alone = low.completed(low(t), x[:, [0, 2]], mask[:, [0, 2]])
        torch.testing.assert_close(p.mean[:, [0, 2]], alone.mean)
        torch.testing.assert_close(p.mean[:, [1, 3]], hidden.completed(hidden(t), x[:, [1, 3]], mask[:, [1, 3]]).mean)
    rows = guides.MeanField(3, 1)
    made = evaluate.impute(model, rows, x, torch.arange(3), 50, by="draws", num_proposals=0, mask=mask, seed=0)
    assert made.shape == (50, 3, 4) and torch.equal(made[:, mask], x[mask].expand(50, -1))


def test_a_program_fills_in_pixels_that_go_together():
    model, x, mask = correlated()

    def program(x, index=None, *, mask=None, size=None):
        with pyro.plate("data", size or len(x), subsample=index if size else None):
            t = pyro.sample("t", dist.Normal(0.0, 1.0).expand([D]).to_event(1))
            return pyro.sample("x", model.likelihood(t.double(), mask), obs=x)

    guide = guides.AutoPerPoint(program, 5, plate="data").setup(x.nan_to_num(0.0), torch.arange(5))
    found = evaluate.impute(program, guide, x.nan_to_num(0.0), torch.arange(5), num_samples=None, mask=mask)
    with torch.no_grad():
        W, b, S = model.moments()
        means = guide.posterior(x, torch.arange(5)).mean.double() @ W.T + b
    for value, made, seen, mu in zip(x, found, mask, means, strict=True):
        gain = S[~seen][:, seen] @ torch.linalg.inv(S[seen][:, seen])
        torch.testing.assert_close(made[~seen], mu[~seen] + gain @ (value - mu)[seen])


def test_calibration_sees_what_is_right_and_what_is_too_narrow():
    model, x, mask = ppca()
    exact = evaluate.check_imputations(model, guides.Exact(model), x, mask=mask, seed=0)
    assert all("no departure" in exact.verdicts[k] for k in ("ranks", "columns")), str(exact)
    for level, (found, stderr) in exact.coverage.items():
        assert abs(found - level) < 4 * stderr
    # σ is small, so that a narrow q makes the draws narrow.
    model.set(model.W, model.mu, torch.tensor(0.02))
    with torch.no_grad():
        x = model(size=N)
    mask = torch.zeros_like(mask)
    mask[:, 0] = True
    index, narrow = torch.arange(N), rows(model, x, mask, 0.2)
    told = evaluate.check_imputations(model, narrow, x, index, mask=mask, num_proposals=0, seed=0)
    assert "too narrow" in told.verdicts["ranks"] and told.coverage[0.9][0] < 0.7
    right = evaluate.check_imputations(model, guides.Exact(model), x, mask=mask, seed=0)
    assert "no departure" in right.verdicts["ranks"]
    # The mean is the same: accuracy does not see it, the score of the whole distribution does.
    assert told.rmse < 1.02 * right.rmse and told.crps > 1.05 * right.crps
    wide = evaluate.check_imputations(model, rows(model, x, mask, 3.0), x, index, mask=mask, num_proposals=0, seed=0)
    assert "too wide" in wide.verdicts["ranks"]
    shifted = rows(model, x, mask, 1.0, shift=2.0)
    off = evaluate.check_imputations(model, shifted, x, index, mask=mask, num_proposals=0, seed=0)
    assert "no departure" not in off.verdicts["columns"] and off.rmse > right.rmse


def test_the_score_is_that_of_a_gaussian():
    r"""CRPS of N(m, s²) at y: s (z (2Φ(z) − 1) + 2φ(z) − 1/√π), z = (y − m)/s."""
    model, x, mask = ppca(30)
    found = evaluate.check_imputations(model, guides.Exact(model), x, None, 4000, mask=mask, num_proposals=0, seed=0)
    assert found.verdicts["columns"] == "no column has 50 hidden values, which a test of a column needs"
    expected = []
    for i, j in zip(found.rows.tolist(), found.columns.tolist(), strict=True):
        mean, covariance = conditional(model, x[i], mask[i])
        place = int((~mask[i])[:j].sum())
        s = covariance[place, place].sqrt()
        z, normal = (x[i, j] - mean[place]) / s, torch.distributions.Normal(0.0, 1.0)
        expected.append(s * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - math.pi**-0.5))
    assert torch.allclose(found.scores, torch.stack(expected).detach(), atol=0.08)
    assert float((found.scores - torch.stack(expected).detach()).mean().abs()) < 0.01


def test_chains_and_point_masses_give_their_draws():
    model, x, mask = ppca(3)
    states = model.posterior(x, mask).sample((500,))
    chain = guides.Chain(model, 3, D, num_states=500).double()
    chain.states.copy_(states.transpose(0, 1))
    made = evaluate.impute(model, chain, x, torch.arange(3), 2000, by="draws", mask=mask, seed=0)
    mean, _ = conditional(model, x[0], mask[0])
    assert (made[:, 0][:, ~mask[0]].mean(0) - mean).abs().max() < 0.15
    point = evaluate.impute(model, guides.PointEstimate(3, D).double(), x, torch.arange(3), 5, by="median", mask=mask)
    assert point.shape == x.shape


def test_latents_of_any_program_are_proposed_and_weighted():
    model, x, mask = ppca(3)

    class Program(PyroModule):
        def __init__(self):
            super().__init__()
            self.W, self.mu = model.W.detach(), model.mu.detach()

        def forward(self, x=None, index=None, *, mask=True, size=None):
            with pyro.plate("data", size or len(x), subsample=index if size else None, dim=-1):
                a = pyro.sample("a", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                b = a @ self.W.T + self.mu
                pyro.sample("x", dist.Normal(b, 0.4**0.5).mask(mask).to_event(1), obs=x)

    program = Program()
    guide = guides.AutoPerPoint(program, 3).setup(x, torch.arange(3), mask=mask)
    guide.inner.rows.overwrite(rows(model, x, mask, 1.5).rows.weight.detach())
    made = evaluate.impute(
        program, guide, x, torch.arange(3), 4000, by="draws", num_proposals=20_000, mask=mask, seed=0
    )
    mean, covariance = conditional(model, x[0], mask[0])
    assert ((made[:, 0][:, ~mask[0]].mean(0) - mean) / covariance.diagonal().sqrt()).abs().max() < 0.08


def test_a_guide_that_heeds_no_mask_sees_nothing_of_what_is_missing():
    model, x, mask = ppca(3)

    class Sum(guides.Guide):
        def posterior(self, x=None, index=None, mask=None, given=None):
            return dist.Normal(0 * x.sum(-1, keepdim=True).expand(-1, D), torch.ones(D).double()).to_event(1)

    made = evaluate.impute(model, Sum(), x.masked_fill(~mask, math.nan), None, 5, by="draws", mask=mask, seed=0)
    assert made.isfinite().all()


def test_ranks_count_the_draws_below_the_truth():
    from pyro_dlgm.evaluate.imputation.held_out import _table

    made = torch.arange(10.0).reshape(10, 1, 1).expand(10, 2, 2)
    x, hidden = torch.tensor([[6.5, 0.0], [-1.0, 99.0]]), torch.tensor([[True, False], [True, True]])
    points, columns, ranks, errors, _, _ = _table(x, made, hidden, torch.zeros(2).bool(), 3)
    assert points.tolist() == [3, 4, 4] and columns.tolist() == [0, 0, 1]
    assert ranks.tolist() == [7, 0, 10] and errors.tolist() == [-2.0, 5.5, -94.5]


def test_the_score_of_classes_is_by_all_pairs_of_draws():
    from pyro_dlgm.evaluate.imputation.held_out import _table

    made = torch.tensor([0.0] * 5 + [1.0] * 3 + [2.0] * 2).reshape(10, 1, 1)
    hidden, kind = torch.ones(1, 1).bool(), torch.ones(1).bool()
    pairs = 1 - (5 * 4 + 3 * 2 + 2 * 1) / 90  # of draws that differ
    for y, miss in ((0.0, 0.5), (2.0, 0.8)):
        *_, errors, scores, _ = _table(torch.tensor([[y]]), made, hidden, kind, 0)
        assert float(scores) == pytest.approx(miss - pairs / 2) and float(errors) == float(y != 0)


def test_intervals_are_central_and_their_error_is_over_points():
    none = torch.zeros(4)
    found = evaluate.Imputations(
        torch.tensor([0, 0, 1, 1]), none.long(), none.long(), none, none, none.bool(),
        torch.tensor([0.3, 0.7, 0.04, 0.97]), torch.tensor([0, 2]), torch.ones(2), 199,
    )  # fmt: skip
    # Both values of the first point are inside, both of the second outside: two points, not four values, say so.
    assert found.coverage == {0.5: (0.5, pytest.approx(2**0.5 / 4)), 0.9: (0.5, pytest.approx(2**0.5 / 4))}
    assert "too few for a test" in found.verdicts["ranks"]


def test_few_effective_proposals_are_warned_of():
    model, x, mask = ppca(4)
    far = rows(model, x, mask, 0.3, shift=6.0)
    with pytest.warns(UserWarning, match=r"an effective number as low as .* raise num_proposals"):
        evaluate.impute(model, far, x, torch.arange(4), 10, by="draws", mask=mask, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate.impute(model, guides.Exact(model), x, None, 10, by="draws", mask=mask, seed=0)


def test_what_makes_no_sense_is_refused():
    model, x, mask = ppca(4)
    exact = guides.Exact(model)
    for message, call in {
        "by is 'modus'": lambda: evaluate.impute(model, exact, x, mask=mask, by="modus"),
        "num_samples is None": lambda: evaluate.impute(model, exact, x, None, None, mask=mask, by="mode"),
        "num_proposals is -1": lambda: evaluate.impute(model, exact, x, mask=mask, by="mode", num_proposals=-1),
        "mask is None": lambda: evaluate.check_imputations(model, exact, x),
        "nothing is held out": lambda: evaluate.check_imputations(model, exact, x, mask=torch.ones_like(mask)),
        "seen by model and guide": lambda: evaluate.check_imputations(model, exact, x, mask=mask, held_out=mask),
        "not finite": lambda: evaluate.check_imputations(model, exact, x.masked_fill(~mask, math.nan), mask=mask),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_nothing_else_changes_and_a_seed_repeats():
    model, x, mask = ppca(4)
    exact, before = guides.Exact(model), torch.get_rng_state()
    calls = [evaluate.impute(model, exact, x, None, 7, by="draws", mask=mask, seed=s) for s in (1, 1, 2)]
    assert torch.equal(calls[0], calls[1]) and not torch.equal(calls[0], calls[2])
    assert torch.equal(before, torch.get_rng_state()) and model.training
