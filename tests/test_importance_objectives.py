r"""IWAE and DReG as losses: per point, exact where they must be, and the faults of Pyro's RenyiELBO not theirs."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.nn import PyroModule, PyroSample

from pyro_dlgm import DLGM, PPCA, SVI, evaluate, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.objectives import IWAE, DReG
from pyro_dlgm.plots.curves import learning_curves
from pyro_dlgm.seeding import forked

N, P, D = 6, 5, 2
INDEX = torch.arange(N)


@pytest.fixture(autouse=True)
def _validated():
    with pyro.validation_enabled(True):
        yield


def ppca(seed: int = 0) -> tuple[PPCA, torch.Tensor]:
    torch.manual_seed(seed)
    model = PPCA(D, P).double()
    model.set(0.7 * torch.randn(P, D).double(), torch.randn(P).double(), torch.tensor(0.8))
    return model, model(size=N).detach()


def wide(model: PPCA, x: torch.Tensor, factor: float = 1.3) -> guides.MeanField:
    r"""Rows whose q is wider than the posterior: the weights are bounded, so that they have a finite variance."""
    exact = model.posterior(x)
    scale = factor * exact.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt() * math.sqrt(D)
    guide = guides.MeanField(len(x), D).double()
    guide.rows.overwrite(torch.cat([exact.mean, scale.log()], -1).detach())
    return guide


class Written(PyroModule):
    r"""x with a deterministic site, a factor or a prior of its own beside it, as plain Pyro has them."""

    def __init__(self, inner: PPCA, extra=lambda t: None):
        super().__init__()
        self.inner, self.extra, self.plate = inner, extra, "data"

    def forward(self, x, index=None, *, mask=None, size=None):
        with pyro.plate("data", size or len(x), subsample=index if size else None, dim=-1):
            t = pyro.sample("t", self.inner.prior())
            pyro.sample("x", self.inner.likelihood(t, mask), obs=x)
        self.extra(t)


def gradients(loss, *modules) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, [p for m in modules for p in m.parameters()])
    return [g.to_dense() if g.is_sparse else g for g in found]


def plain(model, guide, x, chunks: list[int]) -> torch.Tensor:
    r"""−IWAE-K as its formula reads, of all samples at once; the noise is drawn as it comes in chunks."""
    q = guide.posterior(x, INDEX)
    if len(chunks) > 1:
        q.rsample()  # a look for global latents
    t = torch.cat([q.rsample((k,)) for k in chunks])
    log_w = model.log_joint(x, t) - q.log_prob(t)
    return -(log_w.logsumexp(0) - math.log(sum(chunks))).sum()


@pytest.mark.parametrize(("chunk", "sizes"), [(None, [7]), (7, [7]), (3, [3, 3, 1]), (1, [1] * 7)])
def test_the_gradient_in_chunks_is_that_of_the_plain_formula(chunk, sizes):
    model, x = ppca()
    guide = wide(model, x)
    torch.manual_seed(3)
    found = IWAE(7, chunk_size=chunk).differentiable_loss(model, guide, x, INDEX)
    ours = gradients(found, model, guide)
    torch.manual_seed(3)
    expected = plain(model, guide, x, sizes)
    assert torch.allclose(found, expected, atol=1e-10, rtol=0)
    for one, other in zip(ours, gradients(expected, model, guide), strict=True):
        assert torch.allclose(one, other, atol=1e-10, rtol=0)


def test_it_comes_to_the_evidence_and_rises_with_k():
    model, x = ppca()
    guide, truth = wide(model, x), float(model.log_prob(x).sum().detach()) / N
    torch.manual_seed(0)

    def bound(K: int, times: int) -> float:
        rows = INDEX.repeat(times)  # the same points again are other draws
        return -IWAE(K, chunk_size=1000).loss(model, guide, x[rows], rows) / len(rows)

    bounds = [bound(1, 3000), bound(10, 1000), bound(100, 300)]
    assert bounds[0] + 0.05 < bounds[1] and bounds[1] + 0.01 < bounds[2] < truth
    assert abs(bound(10_000, 10) - truth) < 1e-3


def test_memory_stays_where_it_is_with_more_samples():
    model, x = ppca()
    guide, kept = wide(model, x), []

    def size_of_graph(K):
        total = 0

        def pack(v):
            nonlocal total
            total += v.numel()
            return v

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda v: v):
            objectives.IWAE(K, chunk_size=50).differentiable_loss(model, guide, x, INDEX)
        return total

    kept = [size_of_graph(K) for K in (100, 1100)]
    # What grows is the table of log-weights, and no samples, decoded or not.
    assert kept[1] - kept[0] < 4 * 1000 * N


@pytest.mark.parametrize("kind", [IWAE, DReG])
def test_extra_sites_subsampling_and_vectorizing_change_nothing(kind):
    model, x = ppca()
    guide = wide(model, x)

    def value(program, rows=INDEX, size=N, **settings):
        torch.manual_seed(5)
        return kind(500, **settings).loss(program, guide, x[rows], rows, size=size)

    expected = value(model)
    assert value(Written(model)) == pytest.approx(expected, abs=1e-9)
    with_site = Written(model, lambda t: pyro.deterministic("twice", 2 * t))
    assert value(with_site) == pytest.approx(expected, abs=1e-9)
    with_factor = Written(model, lambda t: pyro.factor("all", torch.tensor(-3.0)))
    assert value(with_factor) == pytest.approx(expected + 3, abs=1e-9)
    assert value(model, chunk_size=40) == pytest.approx(expected, rel=0.02)
    assert value(model, chunk_size=1) == pytest.approx(expected, rel=0.02)
    # Each point counts N/B times, after its log-mean-exp.
    batches = [value(model, rows) for rows in torch.randperm(N).reshape(3, 2)]
    assert sum(batches) / 3 == pytest.approx(expected, rel=0.02)
    truth = -float(model.log_prob(x).sum().detach())
    assert abs(sum(batches) / 3 - truth) / N < 0.1


def test_where_pyro_has_no_bound_of_each_point_it_has_one():
    model, x = ppca()
    guide, truth = wide(model, x, 2.0), float(model.log_prob(x).sum().detach())
    with_site = Written(model, lambda t: pyro.deterministic("twice", 2 * t))
    torch.manual_seed(0)
    values = {}
    for name, objective in {"ours": IWAE(50), "pyro": pyro.infer.RenyiELBO(0, 50, 1, vectorize_particles=True)}.items():
        values[name] = [
            sum(-objective.loss(program, guide, x, INDEX) for _ in range(40)) / 40 for program in (model, with_site)
        ]
    assert all(abs(value - truth) < 0.4 for value in values["ours"])
    assert values["pyro"][1] < values["pyro"][0] - 0.8  # one bound for the whole batch
    assert IWAE(50)(model, guide)(x, INDEX).requires_grad  # the form of a module, which Pyro's lacks


def test_factors_of_points_are_a_part_of_their_weights():
    model, x = ppca()
    guide = wide(model, x)

    class Tilted(Written):
        def forward(self, x, index=None, *, mask=None, size=None):
            with pyro.plate("data", len(x), dim=-1):
                t = pyro.sample("t", self.inner.prior())
                pyro.sample("x", self.inner.likelihood(t, mask), obs=x)
                pyro.factor("tilt", 0.3 * t[..., 0])

    q = guide.posterior(x, INDEX)
    torch.manual_seed(1)
    found = IWAE(50).loss(Tilted(model), guide, x, INDEX)
    torch.manual_seed(1)
    t = q.rsample((50,))
    table = model.log_joint(x, t) + 0.3 * t[..., 0] - q.log_prob(t)
    assert found == pytest.approx(-float((table.logsumexp(0) - math.log(50)).sum()), abs=1e-9)


def test_masks_weights_and_what_is_given_count_as_in_evaluate():
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D + 3, P))).double()
    guide = guides.Amortized(nets.MLP(P, 8), D, given_dim=3).double()
    x, given = torch.randn(N, P).double(), torch.randn(N, 3).double()
    for mask in (torch.rand(N, P) < 0.6, torch.tensor([True, False] * 3)):
        torch.manual_seed(2)
        found = IWAE(300).loss(model, guide, x, mask=mask, given=given, weight=torch.arange(6.0).double())
        torch.manual_seed(2)
        bounds = evaluate.iwae(model, guide, x, num_samples=300, mask=mask, given=given)
        assert found == pytest.approx(-float((torch.arange(6.0) * bounds).sum()), rel=1e-6)


def test_a_mask_of_a_handler_takes_points_out():
    model, x = ppca()
    guide, seen = wide(model, x), torch.tensor([True, False] * 3)
    losses = []
    for pair in ((poutine.mask(model, seen), poutine.mask(guide, seen)), (model, guide)):
        torch.manual_seed(0)
        weight = {} if pair[0] is not model else {"weight": seen.double()}
        losses.append(IWAE(9).loss(*pair, x, INDEX, **weight))
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


class Bayesian(PyroModule):
    r"""x_i ~ N(t_i + g, 1), t_i ~ N(0, 1), g ~ N(0, 1): log p(X) is known."""

    plate = "data"

    def forward(self, x, index=None, *, size=None):
        g = pyro.sample("g", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", size or len(x), subsample=index if size else None, dim=-1):
            t = pyro.sample("t", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(t + g, 1.0).to_event(1), obs=x)


class Both(PyroModule):
    r"""The exact posterior of g, and a wide q of t given g."""

    program_plate = "data"

    def __init__(self, shift: float = 0.0):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(shift).double())
        self.log_scale = torch.nn.Parameter(torch.tensor(0.0).double())

    def forward(self, x, index=None, *, size=None):
        all_of_x = self.all_of_x
        var = 1 / (1 + len(all_of_x) / 2)
        g = pyro.sample("g", dist.Normal(var * all_of_x.sum() / 2 + self.shift, var**0.5 * self.log_scale.exp()))
        with pyro.plate("data", size or len(x), subsample=index if size else None, dim=-1):
            pyro.sample("t", dist.Normal((x - g) / 2, 1.0).to_event(1))


@pytest.mark.parametrize("settings", [{}, {"chunk_size": 150}])
def test_a_global_latent_is_drawn_once_and_counts_after_the_log_mean_exp(settings):
    torch.manual_seed(0)
    x = torch.randn(4, 1).double() + 1
    model, guide = Bayesian(), Both()
    guide.all_of_x = x
    covariance = 2 * torch.eye(4).double() + 1
    truth = float(dist.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(x.squeeze(1)))
    # q(g) is exact, and given g the bounds on the points are nearly: each draw gives log p(X).
    found = [-IWAE(600, **settings).loss(model, guide, x) for _ in range(30)]
    assert abs(sum(found) / 30 - truth) < 0.02
    assert max(found) - min(found) < 0.5
    # Under subsampling what belongs to no point counts once.
    halves = []
    for rows in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        torch.manual_seed(1)
        halves.append(-IWAE(600, **settings).loss(model, guide, x[rows], rows, size=4))
    assert sum(halves) / 2 == pytest.approx(truth, abs=0.3)


@pytest.mark.parametrize("kind", [IWAE, DReG])
def test_a_bayesian_w_runs_in_chunks(kind):
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.Linear(D, P)))
    pyro.nn.module.to_pyro_module_(model.likelihood.net)
    body = model.likelihood.net.body[-1]
    body.bias = PyroSample(dist.Normal(torch.zeros(P), 1.0).to_event(1))
    x = torch.randn(N, P)
    guide = guides.AutoPerPoint(model, N).setup(x, INDEX)
    for chunk in (None, 3):
        loss = kind(7, chunk_size=chunk).differentiable_loss(model, guide, x, INDEX)
        loss.backward()
        assert all(p.grad is not None for p in guide.parameters())


@pytest.mark.parametrize("chunk", [None, 3])
def test_doubly_reparametrized_gradients_have_the_expectation_of_the_others(chunk):
    model, x = ppca()
    guide, runs = wide(model, x, 1.8), 300
    means, errors = [], []
    torch.manual_seed(0)
    pyro.enable_validation(False)
    for kind in (IWAE, DReG):
        found = []
        for _ in range(runs if chunk is None else 60):
            loss = kind(4, chunk_size=chunk).differentiable_loss(model, guide, x, INDEX)
            found.append(torch.cat([g.flatten() for g in gradients(loss, model, guide)]))
        table = torch.stack(found)
        means.append(table.mean(0)), errors.append(table.std(0) / len(table) ** 0.5)
    z = (means[0] - means[1]) / torch.hypot(*errors)
    assert float(z.abs().max()) < 4.5
    rows = z[-2 * D * N :]
    assert float(errors[1][-2 * D * N :].mean()) < float(errors[0][-2 * D * N :].mean())
    assert 0.4 < float(rows.square().mean()) < 2.2


@pytest.mark.parametrize(("chunk", "sizes"), [(None, [7]), (3, [3, 3, 1])])
def test_the_doubly_reparametrized_gradient_is_that_of_its_formula(chunk, sizes):
    model, x = ppca()
    guide = wide(model, x)
    torch.manual_seed(3)
    loss = DReG(7, chunk_size=chunk).differentiable_loss(model, guide, x, INDEX)
    ours = gradients(loss, guide)[0]
    torch.manual_seed(3)
    q, draws = guide.posterior(x, INDEX), []
    if chunk:
        q.rsample()
    for k in sizes:
        with forked(int(torch.randint(2**31, ()))):
            draws.append(q.rsample((k,)))
    t = torch.cat(draws)
    fixed = t.detach().requires_grad_()
    log_w = model.log_joint(x, fixed) - guide.posterior(x, INDEX).log_prob(fixed)
    (slope,) = torch.autograd.grad(log_w.sum(), [fixed])
    share = log_w.detach().softmax(0).unsqueeze(-1)
    (expected,) = torch.autograd.grad(t, [guide.rows.weight], -(share**2) * slope)
    assert torch.allclose(ours, expected.to_dense(), atol=1e-10, rtol=0)


def test_the_q_of_a_global_latent_has_its_whole_gradient():
    torch.manual_seed(0)
    x, means, errors = torch.randn(4, 1).double() + 1, [], []
    model, guide = Bayesian(), Both()
    guide.all_of_x = x
    for kind in (IWAE, DReG):
        losses = (kind(30).differentiable_loss(model, guide, x) for _ in range(200))
        found = torch.stack([torch.stack(gradients(loss, guide)) for loss in losses])
        means.append(found.mean(0)), errors.append(found.std(0) / 200**0.5)
    assert float(errors[1].max()) < 0.2
    assert bool((((means[0] - means[1]) / torch.hypot(*errors)).abs() < 4).all())


def test_doubly_reparametrized_gradients_of_a_q_with_two_sites():
    r"""w̃ comes once into the way to each site, also where q(t2 | t1) is computed from t1."""

    class Two(PyroModule):
        plate = "data"

        def forward(self, x, index=None):
            with pyro.plate("data", len(x), dim=-1):
                a = pyro.sample("a", dist.Normal(x.new_zeros(()), 1.0))
                b = pyro.sample("b", dist.Normal(a, 1.0))
                pyro.sample("x", dist.Normal(a + b, 0.7), obs=x)

    class Chained(PyroModule):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([0.3, 0.4, 0.2]).double())

        def forward(self, x, index=None):
            with pyro.plate("data", len(x), dim=-1):
                a = pyro.sample("a", dist.Normal(self.w[0] * x, 1.2))
                pyro.sample("b", dist.Normal(self.w[1] * x + self.w[2] * a, 1.2))

    model, guide, x = Two(), Chained(), torch.tensor([1.5, -0.5]).double()
    torch.manual_seed(0)
    tables = []
    for kind in (IWAE, DReG):
        losses = (kind(3).differentiable_loss(model, guide, x) for _ in range(350))
        tables.append(torch.stack([gradients(loss, guide)[0] for loss in losses]))
    z = (tables[0].mean(0) - tables[1].mean(0)) / torch.hypot(*(t.std(0) / 350**0.5 for t in tables))
    assert float(z.abs().max()) < 4.0


def test_what_has_no_meaning_is_refused():
    model, x = ppca()
    guide = wide(model, x)
    with pytest.raises(ValueError, match="num_samples is 0"):
        IWAE(0)
    with pytest.raises(ValueError, match="chunk_size is -1"):
        IWAE(5, chunk_size=-1)
    with pytest.raises(ValueError, match="chunk_size is 0"):
        IWAE(5, chunk_size=0)
    with pytest.raises(TypeError, match=r"PointEstimate .* has no density"):
        IWAE(5).loss(model, guides.PointEstimate(N, D).double(), x, INDEX)
    with pytest.raises(ValueError, match=r"another scale .*beta="):
        IWAE(5).loss(objectives.Tempered(0.5)(model), objectives.Tempered(0.5)(guide), x, INDEX)
    whole = poutine.scale(model, 0.5), poutine.scale(guide, 0.5)
    torch.manual_seed(0)
    half = IWAE(5).loss(*whole, x, INDEX)
    torch.manual_seed(0)
    assert half == pytest.approx(0.5 * IWAE(5).loss(model, guide, x, INDEX))
    with pytest.raises(ValueError, match=r"outside of the plate .* 't'"):
        IWAE(5).loss(Written(model, lambda t: pyro.factor("sum", t.sum())), guide, x, INDEX)
    with pytest.raises(ValueError, match="no beta"):
        fit(model, guide, x, epochs=1, warmup=1, objective=IWAE(5))


@pytest.mark.parametrize("kind", [IWAE, DReG])
def test_they_train_under_both_svis_and_fit_names_them(kind):
    model, x = ppca()
    guide = guides.Amortized(nets.MLP(P, 8), D).double()
    for step in (
        pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), kind(8, chunk_size=3)).step,
        SVI(model, guide, loss=kind(8, chunk_size=3)).step,
    ):
        losses = [float(step(x)) for _ in range(30)]
        assert sum(losses[-10:]) < sum(losses[:10])
    result = fit(model, guide, x, epochs=2, objective=kind(8), seed=0)
    assert set(result.history[0]) >= {"iwae_8"} and "elbo" not in result.history[0]
    assert result.history[-1]["gradients_per_point"] == 16
    figure = learning_curves(Figure(), {"mine": result.history}, {})
    assert [axis.get_ylabel() for axis in figure.axes] == ["IWAE-8, nats per point"]


def test_a_step_that_is_not_finite_is_named():
    model, x = ppca()
    guide, bad = wide(model, x), x.clone()
    bad[2, 1] = 1e200
    with pytest.raises(FloatingPointError, match=r"site 'x' is not finite in rows \[2\]"):
        SVI(model, guide, loss=IWAE(4, chunk_size=3), check_every=1).step(bad, INDEX)
