"""Classes and tables of mixed types: each column as its own likelihood says, masks, guesses, errors; Student's t."""

import math
from functools import partial

import pyro
import pytest
import torch
from scipy import stats

from pyro_dlgm import DLGM, SVI, compare, evaluate, fit, guides, likelihoods, load, nets, priors
from pyro_dlgm.likelihoods.student_t import StudentTPixels

D, H, K, B = 2, 8, 4, 6
P = 7


def normal(n, width=H):
    return likelihoods.DiagonalNormal(nets.Linear(width, n, heads=2))


def parts(width=H):
    r"""Columns 0, 2 real, 1 and 4 classes, 3 counts, 5 and 6 with heavy tails."""
    return [
        ((0, 2), normal(2, width)),
        ([4, 1], likelihoods.Categorical(nets.Linear(width, 2, heads=K), K)),
        (3, likelihoods.Poisson(nets.Linear(width, 1))),
        (slice(5, None), likelihoods.StudentT(nets.Linear(width, 2, heads=2))),
    ]


def model_of(trunk=True) -> DLGM:
    net = nets.MLP(D, H, (8,)) if trunk else None
    return DLGM(priors.StandardNormal(D), likelihoods.Columns(parts(H if trunk else D), net))


def rows(*lead):
    x = torch.randn(*lead, P)
    x[..., [1, 4]] = torch.randint(0, K, (*lead, 2)).float()
    x[..., 3] = torch.randint(0, 9, lead).float()
    return x


TRUNK = pytest.mark.parametrize("trunk", [True, False])

# Classes


def test_classes_have_the_probabilities_of_their_logits():
    p = likelihoods.Categorical(nets.Linear(D, 3, heads=K), K).double()
    t, x = torch.randn(5, B, D).double(), torch.randint(0, K, (B, 3))
    probs = torch.stack(p.net(t), -1).softmax(-1)
    expected = sum(probs[:, torch.arange(B), j, x[:, j]].log() for j in range(3))
    for dtype in (torch.int64, torch.float64, torch.uint8):
        torch.testing.assert_close(p(t).log_prob(x.to(dtype)), expected)
    drawn = p(t[0]).sample((20_000,))
    shares = torch.stack([(drawn == k).double().mean(0) for k in range(K)], -1)
    assert (shares - probs[0]).abs().max() < 0.02


def test_logits_have_the_gradients_of_differences():
    logits = torch.randn(3, K).double().requires_grad_()
    p, x = likelihoods.categorical.CategoricalPixels, torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda l: p(l).log_prob(x), logits)


def test_images_of_classes_are_decoded_by_convolutions():
    p = likelihoods.Categorical(nets.ConvDecoder(D, (1, 5, 7), widths=(4, 8), heads=K), K)
    model = DLGM(priors.StandardNormal(D), p)
    x = model(size=3)
    assert x.shape == (3, 1, 5, 7) and model.log_joint(x, torch.randn(2, 3, D)).shape == (2, 3)


@pytest.mark.parametrize("bad", [-1.0, float(K), 1.5])
def test_what_is_no_class_is_refused_with_its_row_and_what_to_do(bad):
    model = DLGM(priors.StandardNormal(D), likelihoods.Categorical(nets.Linear(D, 3, heads=K), K))
    x = torch.zeros(B, 3)
    x[2, 1] = bad
    with pytest.raises(ValueError, match=r"Categorical in rows \[2\].*classes, whole numbers 0 to 3"):
        model.check(x)
    with pyro.validation_enabled(False):
        assert model.likelihood(torch.zeros(B, D)).log_prob(x)[2] == -math.inf


def test_a_guess_at_classes_is_the_most_probable_on_average():
    """Codes at ±1 say class 0 or 1 with 0.6, class 2 with 0.4: on average it is class 2."""
    net = nets.Linear(1, 1, heads=3)
    with torch.no_grad():
        net.body[-1].weight.copy_(torch.tensor([[10.0], [-10.0], [0.0]]))
        net.body[-1].bias.copy_(torch.tensor([0.0, 0.0, 9.6]))
    model = DLGM(priors.StandardNormal(1), likelihoods.Categorical(net, 3))
    guide = guides.MeanField(2, 1)
    guide.set_rows(torch.tensor([[1.0, -10.0], [-1.0, -10.0]]))
    x, index = torch.zeros(2, 1), torch.arange(2)
    assert evaluate.reconstruct(model, guide, x, index).flatten().tolist() == [0, 1]
    guide.set_rows(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    made = evaluate.impute(model, guide, x, index, mask=torch.zeros(2, 1).bool(), seed=0)
    t = torch.linspace(-6, 6, 4001)
    with torch.no_grad():
        mean = (model.likelihood(t.unsqueeze(1)).base_dist.averaged * t.square().mul(-0.5).exp()[:, None, None]).sum(0)
    assert made.flatten().tolist() == [float(mean.argmax())] * 2


def test_heads_and_classes_are_checked():
    with pytest.raises(ValueError, match="1 heads; expected 4, one for each class"):
        likelihoods.Categorical(nets.Linear(2, 3), 4)
    with pytest.raises(ValueError, match="at least 2"):
        likelihoods.Categorical(nets.Linear(2, 3), 1)


# Tables


@TRUNK
def test_a_table_says_the_sum_of_its_parts(trunk):
    model = model_of(trunk).double()
    p, t, x = model.likelihood, torch.randn(3, B, D).double(), rows(B).double()
    v = p.net(t) if trunk else t
    expected = sum(
        part(v).log_prob(x[:, columns]) for columns, part in zip([[0, 2], [4, 1], [3], [5, 6]], p.parts, strict=True)
    )
    torch.testing.assert_close(p(t).log_prob(x), expected)
    assert p(t).event_shape == (P,) and p(t).batch_shape == (3, B)
    assert p(t).expand((5, 3, B)).log_prob(x).shape == (5, 3, B)
    assert p(t).sample((5,)).shape == (5, 3, B, P) and p(t).support.check(p(t).sample((5,))).all()
    torch.testing.assert_close(p(t).mean[..., [0, 2]], p.parts[0](v).mean)
    torch.testing.assert_close(p(t).variance[..., 3:4], p.parts[2](v).variance)
    assert p(t).mean[..., [1, 4]].isnan().all()


def test_a_table_of_one_likelihood_is_that_likelihood():
    torch.manual_seed(0)
    part = likelihoods.NegativeBinomial(nets.Linear(D, P))
    table, t = likelihoods.Columns({range(P): part}), torch.randn(B, D)
    x, mask = part(t).sample(), torch.rand(B, P) < 0.5
    torch.testing.assert_close(table(t).log_prob(x), part(t).log_prob(x))
    torch.testing.assert_close(table(t, mask).log_prob(x), part(t, mask).log_prob(x))
    torch.testing.assert_close(table(t).mean, part(t).mean)


def test_one_part_a_column_is_the_same_as_one_part():
    net = nets.Linear(D, 3, heads=2)
    whole = likelihoods.DiagonalNormal(net)
    W, b = net.body[-1].weight.detach(), net.body[-1].bias.detach()
    each = {}
    for j in range(3):
        each[j] = normal(1, D)
        each[j].net.body[-1].weight.data.copy_(W[[j, j + 3]]), each[j].net.body[-1].bias.data.copy_(b[[j, j + 3]])
    t, x = torch.randn(4, B, D), torch.randn(B, 3)
    torch.testing.assert_close(likelihoods.Columns(each)(t).log_prob(x), whole(t).log_prob(x))
    back = likelihoods.Columns({2 - j: each[j] for j in range(3)})
    torch.testing.assert_close(back(t).log_prob(x.flip(1)), whole(t).log_prob(x))


@TRUNK
def test_missing_entries_add_nothing_even_as_nan(trunk):
    model, t, x = model_of(trunk), torch.randn(4, B, D), rows(B)
    mask = torch.rand(B, P) < 0.5
    mask[2] = False
    holes = x.masked_fill(~mask, math.nan)
    torch.testing.assert_close(model.log_joint(holes, t, mask), model.log_joint(x, t, mask))
    torch.testing.assert_close(model.log_joint(holes, t, mask)[:, 2], model.prior().log_prob(t)[:, 2])
    each = sum(model.likelihood(t, mask & (torch.arange(P) == j)).log_prob(x) for j in range(P))
    torch.testing.assert_close(model.likelihood(t, mask).log_prob(x), each, rtol=1e-4, atol=1e-5)
    other = torch.where(mask, x, rows(B))
    torch.testing.assert_close(model.likelihood(t, mask).log_prob(other), model.likelihood(t, mask).log_prob(x))
    v, groups = model.likelihood.net(t) if trunk else t, ([0, 2], [4, 1], [3], [5, 6])
    own = [p(v, mask[:, n]).log_prob(x[:, n]) for n, p in zip(groups, model.likelihood.parts, strict=True)]
    torch.testing.assert_close(model.likelihood(t, mask).log_prob(x), sum(own))
    of_points = torch.tensor([True, False, True, True, True, False])
    torch.testing.assert_close(
        model.log_joint(x, t, of_points), model.log_joint(x, t, of_points.unsqueeze(1).expand(B, P))
    )
    guide = guides.MeanField(B, D)
    SVI(model, guide).objective.differentiable_loss(model, guide, holes, torch.arange(B), mask=mask).backward()
    assert all(v.grad.isfinite().all() for v in model.parameters())
    x_one, mask_one = x[0], mask[0]
    assert model.likelihood(t[0, 0], mask_one).log_prob(x_one).shape == ()


def test_a_table_trains_is_scored_and_imputed_and_comes_back(tmp_path):
    torch.manual_seed(0)
    model = model_of()
    x, mask = model(size=60).detach(), torch.rand(60, P) < 0.8
    guide = guides.Amortized(nets.MLP(2 * P, 16), D, mask_input=True)
    holes = x.masked_fill(~mask, math.nan)
    result = fit(model, guide, holes, mask=mask, epochs=3, batch_size=20, seed=0, out=tmp_path)
    assert all(math.isfinite(record["elbo"]) for record in result.history)
    filled = evaluate.impute(model, guide, holes, mask=mask, num_samples=20, seed=0)
    assert filled.isfinite().all() and torch.equal(filled[mask], x[mask])
    assert set(filled[:, [1, 4]].unique().tolist()) <= set(range(K))
    assert (filled[:, 3] >= 0).all()
    made = evaluate.reconstruct(model, guide, x, mask=mask)
    torch.testing.assert_close(made[:, 3], model.likelihood(guide.posterior(x, None, mask).mean).mean[:, 3])
    many = evaluate.reconstruct(model, guide, x, None, 50, mask=mask, seed=0)
    assert 0.2 < many[:, 3].mean() / made[:, 3].mean() < 5  # an average over samples, no sum
    scores = evaluate.ais(model, guides.MeanField(60, D), x, torch.arange(60), 2, 5, mask=mask, seed=0)
    assert scores.log_px.isfinite().all()
    again, _, _ = load(tmp_path, model=model_of(), guide=guides.Amortized(nets.MLP(2 * P, 16), D, mask_input=True))
    torch.testing.assert_close(again.log_joint(x, torch.zeros(60, D)), model.log_joint(x, torch.zeros(60, D)))


def test_one_latent_by_quadrature_and_annealing():
    torch.manual_seed(1)
    table = likelihoods.Columns(
        {
            0: normal(1, 1),
            1: likelihoods.Categorical(nets.Linear(1, 1, heads=3), 3),
            2: likelihoods.Poisson(nets.Linear(1, 1)),
        }
    )
    model = DLGM(priors.StandardNormal(1), table).double()
    x = torch.tensor([[0.3, 2.0, 4.0], [-1.0, 0.0, 0.0]]).double()
    t = torch.linspace(-12, 12, 20_001).double().unsqueeze(1)
    with torch.no_grad():
        joint = torch.stack([table(t).log_prob(row) for row in x]) + model.prior().log_prob(t)
    exact = joint.logsumexp(1) + math.log(24 / 20_000)
    torch.testing.assert_close(evaluate.quadrature(model, x, tol=1e-6), exact, rtol=0, atol=1e-5)
    found = evaluate.ais(model, guides.FullRank(2, 1).double(), x, torch.arange(2), 300, 50, seed=0)
    assert ((found.log_px - exact).abs() < 5 * found.stderr + 0.02).all()


def test_compare_takes_a_table():
    torch.manual_seed(0)
    x = model_of()(size=50).detach()
    found = compare(
        model_of,
        {
            "mean-field": lambda m, N: guides.MeanField(N, D),
            "amortized": lambda m, N: guides.Amortized(nets.MLP(P, 8), D),
        },
        x[:40],
        x[40:],
        gradients=4,
        num_samples=25,
    )
    assert [math.isfinite(row.test_iwae) for row in found] == [True, True]


def test_what_a_column_does_not_take_is_refused_with_part_columns_and_row():
    model = model_of()
    for column, value, words in (
        (3, -2.0, r"Poisson \(columns \[3\]\) in rows \[5\]"),
        (4, 9.0, r"Categorical \(columns \[4, 1\]\)"),
    ):
        x = rows(B)
        x[5, column] = value
        with pytest.raises(ValueError, match=words):
            model.check(x)
    x = rows(B)
    x[1, 0] = math.inf
    with pytest.raises(ValueError, match=r"DiagonalNormal \(columns \[0, 2\]\) in rows \[1\]"):
        model.check(x)
    with pytest.raises(ValueError, match="expects points of shape"):
        model.check(rows(B)[:, :5])
    whole = DLGM(
        priors.StandardNormal(D),
        likelihoods.Columns(
            {0: likelihoods.Poisson(nets.Linear(D, 1)), 1: likelihoods.Categorical(nets.Linear(D, 1, heads=2), 2)}
        ),
    )
    whole.check(torch.tensor([[5, 1], [0, 0]]))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(0, 1), ([0, 1], 2)], r"columns \[0\] are named twice and \[2\] not at all"),
        (
            [([0, 1], 2), (5, 1)],
            r"columns are \[5\], and all groups together name 3; expected each of 0 to 2 in one group",
        ),
        ([([0, 1], 3), (2, 1)], r"columns \[0, 1\] has a network that returns \(3,\); expected \(2,\)"),
        ([(slice(0, 0), 2), (2, 1)], "columns are slice"),
        ([], "no parts"),
    ],
)
def test_columns_are_disjoint_and_all_there(pairs, words):
    with pytest.raises(ValueError, match=words):
        likelihoods.Columns([(columns, normal(n)) for columns, n in pairs])


def test_open_columns_need_a_network_that_says_its_shape():
    plain = likelihoods.Poisson(torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"open.*slice\(first, stop\)"):
        likelihoods.Columns([(slice(0, None), plain)])
    assert likelihoods.Columns([(slice(0, 3), plain), (-1, normal(1, 2))]).columns == [[0, 1, 2], [3]]


@TRUNK
def test_what_is_given_reaches_the_table(trunk):
    C = 2
    net = nets.MLP(D + C, H, (8,)) if trunk else None
    width = H if trunk else D + C
    table = likelihoods.Columns({0: normal(1, width), 1: likelihoods.Poisson(nets.Linear(width, 1))}, net)
    t, given = torch.randn(3, B, D), torch.randn(B, C)
    other = given + 1
    assert table(t, given=given).log_prob(torch.ones(B, 2)).shape == (3, B)
    assert not torch.equal(table(t, given=given).mean, table(t, given=other).mean)
    with pytest.raises(ValueError, match="given of shape"):
        table(t, given=given[:, :1])


# Heavy tails


@pytest.mark.parametrize("df", [1.2, 4.0, 31.0, 33.0, 200.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_students_t_is_that_of_scipy(df, dtype):
    x = torch.tensor([-1e4, -3.0, 0.0, 0.2, 50.0]).to(dtype)
    p = StudentTPixels(*(torch.tensor(v, dtype=dtype) for v in (df, 0.3, 2.0)))
    expected = torch.from_numpy(stats.t.logpdf(x.double(), float(p.df), float(p.loc), 2)).to(dtype)
    tol = 1e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(p.log_prob(x), expected, rtol=tol, atol=tol)


def test_students_t_has_the_gradients_of_differences():
    u, loc, scale = torch.tensor([0.5, 40.0]).double(), torch.randn(2).double(), torch.tensor([0.4, 2.0]).double()
    inputs = [v.requires_grad_() for v in (u, loc, scale)]
    x = torch.tensor([3.0, -1.0]).double()
    assert torch.autograd.gradcheck(lambda *v: StudentTPixels(v[0] + 1, *v[1:]).log_prob(x), inputs)


def test_a_heavy_tail_is_learned_and_an_outlier_moves_the_mean_less():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(400, 1), torch.tensor([[80.0]])])
    found = {}
    for name, new in (
        ("t", partial(likelihoods.StudentT, df=torch.full((1,), 4.0))),
        ("normal", likelihoods.DiagonalNormal),
    ):
        model = DLGM(priors.StandardNormal(1), new(nets.Linear(1, 1, heads=2)))
        with torch.no_grad():
            model.likelihood.net.body[-1].weight.zero_()
        optimizer = torch.optim.Adam(
            [model.likelihood.net.body[-1].bias, *([model.likelihood.u] if name == "t" else [])], 0.05
        )
        for _ in range(400):
            optimizer.zero_grad()
            (-model.likelihood(torch.zeros(1, 1)).log_prob(x).mean()).backward()
            optimizer.step()
        found[name] = model.likelihood(torch.zeros(1, 1)).mean.item()
    median = x.median().item()
    assert abs(found["t"] - median) < 0.1 < abs(found["normal"] - median)
    assert model.likelihood(torch.zeros(2, 1)).mean.shape == (2, 1)


@pytest.mark.parametrize(("settings", "words"), [({"df": 1.0}, "df is 1; expected"), ({"floor": -1.0}, "floor is -1")])
def test_wrong_settings_of_students_t(settings, words):
    with pytest.raises(ValueError, match=words):
        likelihoods.StudentT(nets.Linear(2, 3, heads=2), **settings)
