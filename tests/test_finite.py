r"""A loss or gradient that is not finite: the step is not taken, and the error names what went wrong."""

import copy
import re

import pytest
import torch
from torch import nn

from pyro_dlgm import DLGM, PPCA, SVI, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.optim import nan_guard
from pyro_dlgm.optim.svi import adam

N, P, D = 40, 6, 2
KINDS = ("mean_field", "full_rank", "amortized", "auto_normal")


def pair(kind, net=None):
    torch.manual_seed(1)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net or nets.MLP(D, P, (16,)), 0.5))
    if kind == "amortized":
        return model, guides.Amortized(nets.MLP(P, 8, (8,)), D)
    if kind == "auto_normal":
        return model, guides.auto(model, "AutoNormal", N)
    return model, {"mean_field": guides.MeanField, "full_rank": guides.FullRank}[kind](N, D)


def points():
    r"""Points that say their own row in their first feature."""
    x = torch.randn(N, P, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(N) / N
    return x


class Spoil:
    r"""Creates the transform that spoils every third point of batch number ``at``, and notes which these are."""

    def __init__(self, at, value=float("nan")):
        self.at, self.value, self.calls, self.rows = at, value, 0, None

    def __call__(self, x):
        self.calls += 1
        if self.calls != self.at:
            return x
        self.rows = sorted((x[::3, 0] * N).round().int().tolist())
        return x.index_fill(0, torch.arange(0, len(x), 3), self.value)


def weights(*modules):
    return [v.clone() for m in modules for v in m.state_dict().values()]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


def broken(kind, at, net=None, **settings):
    r"""The message of a run that breaks at step ``at``, its transform, and its pair."""
    model, guide = pair(kind, net)
    spoil = settings.pop("transform", None) or Spoil(at)
    settings = {"epochs": 20, "batch_size": 10, "schedule": "constant", "seed": 3} | settings
    with pytest.raises(FloatingPointError) as error:
        fit(model, guide, points(), transform=spoil, **settings)
    return str(error.value), spoil, (model, guide)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_data_stop_the_run_at_that_step_with_the_parameters_before_it(kind):
    message, spoil, modules = broken(kind, 7)
    site = "t" if kind == "amortized" else "x"
    assert message.startswith(f"the loss is nan at step 7: the log-density of site {site!r} is not finite")
    assert f"in rows {spoil.rows}" in message and len(spoil.rows) == 4
    assert "all parameters are finite, the first gradient that is not is that of model.likelihood." in message
    assert "lower lr and row_lr, set clip_norm, raise the floor" in message
    before = pair(kind)
    fit(*before, points(), steps=6, batch_size=10, schedule="constant", seed=3)
    assert same(weights(*modules), weights(*before)) and spoil.calls == 7
    assert all(p.grad is None for m in modules for p in m.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0}, {"e_steps": 3}])
@pytest.mark.parametrize("at", [3, 5, 6])
def test_a_flag_that_is_read_later_ends_with_the_same_parameters_and_words(kind, settings, at, monkeypatch):
    at_once, _, modules = broken(kind, at, batch_size=4, **settings)
    monkeypatch.setitem(nan_guard.INTERVALS, "cpu", 5)
    later, spoil, masked = broken(kind, at, batch_size=4, **settings)
    assert later == at_once and same(weights(*modules), weights(*masked))
    if not settings:
        assert spoil.calls == (at + 4) // 5 * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["mean_field", "amortized"])
def test_masked_steps_leave_the_state_of_the_optimizers(kind, dtype):
    states = []
    for steps in (2, 5):
        model, guide = (m.to(dtype) for m in pair(kind))
        optimizers = adam(model, guide)
        svi, x, index = SVI(model, guide, optimizers, check_every=50), points().to(dtype)[:10], torch.arange(10)
        torch.manual_seed(2)
        for step in range(steps):
            svi.step(x + (float("inf") if step == 2 else 0.0), index)
        states.append([copy.deepcopy([o.state_dict() for o in optimizers]), weights(model, guide)])
    with pytest.raises(FloatingPointError, match=r"at step 3: .* in rows \[0, 1, 2, 3, 4, 5, 6, 7, 8, 9\]"):
        svi.check()
    for a, b in zip(*(s[0] for s in states), strict=True):
        for entry in a["state"]:
            assert same(list(a["state"][entry].values()), list(b["state"][entry].values()))
    assert same(states[0][1], states[1][1])


def test_a_reading_clears_the_flag():
    model, guide = pair("mean_field")
    svi = SVI(model, guide, check_every=50)
    svi.step(points()[:10], torch.arange(10))
    svi.step(points()[:10] * torch.nan, torch.arange(10))
    with pytest.raises(FloatingPointError):
        svi.check()
    before = weights(guide)
    svi.step(points()[:10], torch.arange(10))
    svi.check()
    assert not same(before, weights(guide))


def test_an_optimizer_that_cannot_skip_is_never_asked_for_a_bad_step():
    model, guide = pair("mean_field")
    svi = SVI(model, guide, [torch.optim.SGD(model.parameters(), lr=0.1)], check_every=50)
    svi.step(points(), torch.arange(N))
    before = weights(model)
    with pytest.raises(FloatingPointError, match="at step 2"):
        svi.step(points() * torch.inf, torch.arange(N))
    assert same(before, weights(model))


@pytest.mark.parametrize(
    ("kind", "rates", "words"),
    [
        ("mean_field", {"lr": 1e25}, r"site 'x' is not finite in rows .*gradient that is not is that of model\."),
        ("amortized", {"lr": 1e25}, r"site '[tx]' is not finite in rows"),
        ("mean_field", {"row_lr": 1e25}, r"site 't' is not finite in rows .*"),
        ("full_rank", {"row_lr": 1e25}, r"site 't' is not finite in rows .*"),
        ("auto_normal", {"row_lr": 1e25}, r"site 't\w*' is not finite in rows .*"),
    ],
)
def test_exploding_rates_stop_the_run(kind, rates, words):
    message, _, modules = broken(kind, 0, batch_size=N, **rates)
    assert re.search(rf"at step 2: .*{words}", message)
    before = pair(kind)
    fit(*before, points(), steps=1, batch_size=N, seed=3, **rates)
    assert same(weights(*modules), weights(*before))


def test_a_matrix_without_factors_stops_the_run_in_the_same_way():
    torch.manual_seed(1)
    ppca = PPCA(D, P)
    after = []
    with pytest.raises(FloatingPointError, match=r"the loss at step 2 does not exist \(.*factor.*lower lr") as error:
        fit(
            ppca,
            guides.Exact(ppca),
            points(),
            epochs=9,
            lr=1e30,
            transform=lambda x: (after.append(weights(ppca)), x)[1],
        )
    assert isinstance(error.value.__cause__, torch.linalg.LinAlgError)
    assert same(weights(ppca), after[-1]) and len(after) == 2


def test_an_e_step_is_named():
    message, _, _ = broken("mean_field", 4, e_steps=2)
    assert "at an E-step of step 4:" in message


class Root(nn.Module):
    r"""Creates a network with a parameter at 0 of which it takes the square root: its gradient is infinite."""

    def __init__(self):
        super().__init__()
        self.first, self.bad = nn.Linear(D, P), nn.Parameter(torch.zeros(P))

    def forward(self, t):
        return self.first(t) + self.bad.sqrt()


def test_a_gradient_alone_is_enough():
    model, guide = pair("mean_field", Root())
    before = weights(model, guide)
    with pytest.raises(FloatingPointError) as error:
        fit(model, guide, points(), epochs=1)
    assert "the gradient is not finite at step 1: the log-densities of all sites are finite" in str(error.value)
    assert "gradient that is not is that of model.likelihood.net.bad" in str(error.value)
    assert same(before, weights(model, guide))


class Kink(nn.Module):
    r"""Creates a network whose gradient is a number for its parameters, and none for t."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(D, P)

    def forward(self, t):
        return self.first(t) + (t - t.detach()).sum(-1, keepdim=True).abs().sqrt()


def test_a_gradient_of_rows_alone_is_enough():
    model, guide = pair("mean_field", Kink())
    before = weights(model, guide)
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite at step 1: .* of guide\.rows\.weight"):
        fit(model, guide, points(), epochs=1)
    assert same(before, weights(model, guide))


def test_a_loss_alone_is_enough():
    model, guide = (m.requires_grad_(False) for m in pair("mean_field"))
    svi = SVI(model, guide, check_every=1)
    svi.step(points(), torch.arange(N))
    with pytest.raises(
        FloatingPointError, match=r"the loss is nan at step 2: .*all parameters and their gradients are"
    ):
        svi.step(points() * torch.inf, torch.arange(N))


def test_a_parameter_is_named_before_gradients():
    model, guide = pair("mean_field")
    svi = SVI(model, guide, check_every=1)
    svi.step(points(), torch.arange(N))
    with torch.no_grad():
        model.likelihood.net.body[-1].bias[2] = torch.inf
    with pytest.raises(
        FloatingPointError, match=r"parameter that is not finite is model\.likelihood\.net\.body\.\d\.b"
    ):
        svi.step(points(), torch.arange(N))


class Moody(nn.Module):
    r"""Creates a network that fails where t happens to be far out, and notes how often it did, by points."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.seen = nn.Linear(D, P), nn.BatchNorm1d(P), []

    def forward(self, t):
        flat = t.flatten(0, -2)
        far = flat[:, 0] > flat.detach()[:, 0].sort().values[-3]
        self.seen.append([row % N for row in far.nonzero().flatten().tolist()])
        y = self.norm(self.first(flat)).masked_fill(far.unsqueeze(-1) & (self.norm.num_batches_tracked > 3), torch.inf)
        return y.view(*t.shape[:-1], P)


@pytest.mark.parametrize("particles", [1, 3])
def test_the_error_is_about_the_very_draws_that_failed(particles):
    torch.manual_seed(1)
    net = Moody()
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net, 0.5))
    guide, index = guides.MeanField(N, D, init_scale=1.0), torch.arange(N).flip(0)
    svi = SVI(model, guide, loss=objectives.ELBO(particles), check_every=1)
    with pytest.raises(FloatingPointError) as error:
        for _ in range(9):
            svi.step(points(), index, size=N, factor=1 / N)
    # For the error the step is taken twice again, with another look at the plate between; batch norm counts the step
    # alone.
    assert len(net.seen) == 4 + 3 and int(net.norm.num_batches_tracked) == 4
    assert net.seen[3] == net.seen[4] == net.seen[6] != net.seen[5]
    assert f"in rows {sorted(index[net.seen[3]].tolist())}" in str(error.value)


def test_many_rows_are_counted():
    def transform(x, calls=iter(range(9))):  # noqa: B008
        return x * torch.nan if next(calls) else x

    message, _, _ = broken("mean_field", 0, batch_size=N, transform=transform)
    assert "in rows [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] and 30 more" in message


def test_records_have_the_norm_of_the_dense_gradient_before_clipping():
    x = points().double()
    ppca = PPCA(D, P).double()
    (-ppca.log_prob(x).mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in ppca.parameters()]).norm().item()
    ppca.zero_grad()
    for clip in (None, 1e-3):
        settings = {"epochs": 2, "batch_size": 10, "lr": 1e-12, "clip_norm": clip, "seed": 0}
        whole = fit(ppca, guides.Exact(ppca), x, **settings | {"batch_size": N, "e_steps": 2}).history
        assert [r["gradient_norm"] for r in whole] == pytest.approx([expected] * 2, rel=1e-5)
        parts = fit(ppca, guides.Exact(ppca), x, **settings).history
        assert all(r["gradient_norm"] > expected for r in parts)  # the mean of the norms of four batches


def test_there_is_no_norm_where_all_gradients_are_of_rows():
    model, guide = pair("mean_field")
    model.requires_grad_(False)
    assert "gradient_norm" not in fit(model, guide, points(), epochs=1).history[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nobody_waits_between_two_readings():
    for kind in ("mean_field", "amortized"):
        model, guide = (m.cuda() for m in pair(kind))
        svi, x, index = SVI(model, guide, check_every=50), points().cuda(), torch.arange(N, device="cuda")
        svi.step(x, index, size=N, factor=1 / N)  # the first one checks arguments
        before = weights(model, guide)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                svi.step(x * torch.nan, index, size=N, factor=1 / N)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        with pytest.raises(FloatingPointError, match="at step 2"):
            svi.check()
        assert same(before, weights(model, guide))
