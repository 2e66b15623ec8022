"""`adopt`: decoders and encoders from elsewhere against exact answers; they stay as they are; what does not fit."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pyro_dlgm import PPCA, adopt, evaluate, fit, guides, likelihoods, priors
from pyro_dlgm.comparison.certificates import Certify
from pyro_dlgm.report import page

D, SHAPE, B = 2, (1, 4, 4), 12


class Flat(nn.Sequential):
    r"""A decoder with a batch norm and dropout, of flat points."""

    def __init__(self, *last):
        layers = nn.Linear(D, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 16)
        super().__init__(*layers, *last)


class Pair(nn.Module):
    r"""An encoder, or a decoder, of mean and spread."""

    def __init__(self, size, out, first=None):
        super().__init__()
        self.first = first or nn.Flatten()
        self.a, self.b = nn.Linear(size, out), nn.Linear(size, out)

    def forward(self, v):
        v = self.first(v)
        return self.a(v), self.b(v)


@pytest.fixture
def x():
    return torch.rand(B, *SHAPE).bernoulli()


def test_a_linear_decoder_has_the_evidence_of_ppca():
    torch.manual_seed(0)
    X = (torch.randn(60, D) @ torch.randn(D, 6) + 0.5 * torch.randn(60, 6) + 1).double()
    ppca = PPCA.fit(X, D)
    decoder = nn.Linear(D, 6).double()
    with torch.no_grad():
        decoder.weight.copy_(ppca.W), decoder.bias.copy_(ppca.mu)
    model, _ = adopt(decoder, X, D, outputs="mean", scale=float(ppca.sigma2) ** 0.5)
    exact = ppca.log_prob(X)
    torch.testing.assert_close(evaluate.quadrature(model, X[:5], tol=1e-6), exact[:5], rtol=0, atol=1e-5)
    q = evaluate.infer(model, guides.FullRank(60, D).double(), X, seed=0)
    assert (evaluate.elbo(model, q, X, torch.arange(60), 500, seed=0) - exact).abs().max() < 0.02
    found = evaluate.ais(model, q, X, torch.arange(60), 2, 10, seed=0)
    assert (found.log_px - exact).abs().max() < 0.1


def test_an_encoder_of_means_and_spreads_is_q_as_it_says(x):
    raw = Pair(16, D)
    forms = {"log_variance": lambda v: (v / 2).exp(), "log_scale": torch.exp}
    for spread, scale in forms.items():
        _, guide = adopt(Flat(), x, D, outputs="logits", encoder=raw, spread=spread)
        mean, s = raw(x)
        q = guide.posterior(x)
        torch.testing.assert_close(q.mean, mean.detach())
        torch.testing.assert_close(q.stddev, scale(s).detach())
    model, guide = adopt(Flat(), x, D, outputs="logits", encoder=raw)
    start = evaluate.elbo(model, guide, x, num_samples=200, seed=0).mean()
    better = evaluate.infer(model, guide, x, seed=0)
    assert evaluate.elbo(model, better, x, torch.arange(B), 200, seed=0).mean() > start
    gaps = evaluate.gaps(model, guide, x[:4], num_samples=100, num_chains=2, num_temperatures=10, seed=0)
    assert gaps.own == "mean_field" and gaps.summary()["amortization"]["mean"] > 0
    mask = torch.rand(x.shape) < 0.5
    torch.testing.assert_close(
        guide.posterior(x.masked_fill(~mask, math.nan), None, mask).mean, guide.posterior(x * mask).mean
    )


def test_features_leave_q_to_be_learned_with_all_else_frozen(x):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8))
    model, guide = adopt(Flat(), x, D, outputs="logits", encoder=encoder)
    before = copy.deepcopy((model.state_dict(), guide.encoder.state_dict()))
    first = evaluate.elbo(model, guide, x, num_samples=300, seed=0).mean()
    fit(model, guide, x, epochs=60, lr=2e-2, seed=0)
    assert evaluate.elbo(model, guide, x, num_samples=300, seed=0).mean() > first
    for old, now in zip(before, (model.state_dict(), guide.encoder.state_dict()), strict=True):
        assert all(torch.equal(old[key], now[key]) for key in old)


def test_probabilities_say_the_same_as_their_logits(x):
    decoder = Flat()
    both = nn.Sequential(decoder, nn.Sigmoid())
    a, _ = adopt(decoder, x, D, outputs="logits")
    b, _ = adopt(both, x, D, outputs="probabilities")
    t = torch.randn(3, B, D)
    torch.testing.assert_close(a.log_joint(x, t), b.log_joint(x, t), rtol=1e-4, atol=1e-4)
    sure = nn.Sequential(nn.Linear(D, 16), nn.Threshold(math.inf, 1.0))  # always 1
    model, _ = adopt(sure, x, D, outputs="probabilities")
    assert model.log_joint(x, t).isfinite().all()


def test_means_spreads_and_counts(x):
    t = torch.randn(3, B, D)
    pair = Pair(8, 16, nn.Linear(D, 8))
    model, _ = adopt(pair, x, D, outputs="mean_and_spread", spread="log_scale")
    mean, s = (v.reshape(3, B, *SHAPE) for v in pair(t.reshape(-1, D)))
    expected = torch.distributions.Normal(mean, s.exp()).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(model.likelihood(t).log_prob(x), expected.detach(), rtol=1e-4, atol=1e-4)
    counts = torch.poisson(torch.ones(B, 16))
    model, _ = adopt(nn.Linear(D, 16), counts, D, outputs="log_rate")
    assert type(model.likelihood) is likelihoods.Poisson
    model, _ = adopt(nn.Linear(D, 16), x, D, outputs=lambda net: likelihoods.FixedNormal(net, 0.1, learn=False))
    assert model.likelihood.scale == pytest.approx(0.1)
    own = priors.StandardNormal(D)
    model, _ = adopt(nn.Linear(D, 16), x, D, outputs="logits", prior=own)
    assert model.prior is not own and model(size=4).shape == (4, *SHAPE)


@pytest.mark.parametrize("training", [True, False])
def test_modules_generators_and_flags_stay_as_they_are(training, x):
    decoder, encoder = Flat().train(training), Pair(16, D).train(training)
    decoder[0].weight.requires_grad_(False)
    state = copy.deepcopy(decoder.state_dict())
    flags = [(m.training) for m in decoder.modules()], [p.requires_grad for p in decoder.parameters()]
    generator = torch.get_rng_state()
    model, guide = adopt(decoder, x, D, outputs="logits", encoder=encoder)
    assert torch.equal(generator, torch.get_rng_state())
    q = evaluate.infer(model, guide, x, max_steps=20, seed=0)
    evaluate.ais(model, q, x, torch.arange(B), 2, 5, seed=0)
    model.train()
    fit(model, guides.MeanField(B, D), x, epochs=2, seed=0)
    assert all(torch.equal(v, decoder.state_dict()[key]) for key, v in state.items())
    assert flags == ([m.training for m in decoder.modules()], [p.requires_grad for p in decoder.parameters()])
    assert all(p.grad is None for m in (decoder, encoder) for p in m.parameters())
    t = torch.randn(B, D)
    torch.testing.assert_close(model.likelihood(t).base_dist.logits.flatten(1), copy.deepcopy(decoder).eval()(t))
    with torch.no_grad():
        decoder[4].bias.fill_(100.0)
    assert model.likelihood(t).base_dist.logits.max() < 50


def test_a_report_is_made_with_and_without_an_encoder(x, tmp_path):
    labels = torch.arange(B) % 3
    for encoder in (None, Pair(16, D)):
        model, guide = adopt(Flat(), x, D, outputs="logits", encoder=encoder)
        certify = Certify(gaps=True, points=4, num_chains=2, num_temperatures=4, num_samples=50)
        html = page.of_pair(model, guide, x, name="Mine & yours", labels=labels, certify=certify, num_samples=50)
        for words in (
            "Mine &amp; yours",
            "Inference gap",
            "Reconstructions",
            "Samples",
            "Latent space",
            "IWAE-50",
            "BDMC gap",
        ):
            assert words in html, words
        page.write(tmp_path, html)
    plain = page.of_pair(model, guide, x, num_samples=50)
    assert "Inference gap" not in plain and "ELBO" in plain


def wrong(**changes):
    settings = {
        "decoder": nn.Linear(D, 16),
        "x": torch.rand(B, *SHAPE).bernoulli(),
        "latent_dim": D,
        "outputs": "logits",
    }
    return adopt(**settings | changes)


class Triple(Pair):
    def forward(self, v):
        return (*super().forward(v), v)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder": lambda t: t}, "decoder is a function; expected a torch module"),
        ({"decoder": nn.Linear(D, 15)}, r"makes \(8, 15\) of codes \(8, 2\).*16 numbers per code"),
        ({"decoder": nn.Linear(3, 16)}, r"raised RuntimeError on codes \(8, 2\) of torch.float32"),
        ({"decoder": nn.Sequential(nn.Linear(D, 16), nn.Sigmoid())}, "outputs='probabilities'"),
        ({"outputs": "probabilities"}, "outputs='logits'"),
        ({"outputs": "softmax"}, "expected one of logits, probabilities"),
        ({"outputs": "mean"}, "scale is None"),
        ({"scale": 1.0}, "scale is 1.0 and outputs 'logits'"),
        ({"outputs": "mean_and_spread"}, "1 tensors; 'mean_and_spread' expects 2"),
        ({"decoder": Pair(2, 16)}, "2 tensors; 'logits' expects 1"),
        ({"decoder": Triple(2, 16)}, "expected one tensor, or two"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"spread": "std"}, "spread is 'std'; expected one of log_variance"),
        ({"x": torch.rand(B, *SHAPE)}, "outside the support of Bernoulli in rows"),
        ({"x": torch.rand(B, *SHAPE).bernoulli().double()}, "use x.to"),
        ({"x": [1.0]}, "x is list"),
        ({"encoder": Pair(16, 3)}, r"makes \(8, 3\) and \(8, 3\) of 8 points; expected two tensors \(8, 2\)"),
        ({"encoder": Triple(16, D)}, "expected two tensors"),
        ({"encoder": nn.Linear(7, 2)}, "the encoder raised RuntimeError on x"),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(ValueError, match=words):
        wrong(**changes)


class Published(nn.Module):
    r"""A published decoder of binarized MNIST, from its arrays: linear, then three transposed convolutions."""

    def __init__(self, arrays):
        super().__init__()
        v = {name.removeprefix("decoder."): torch.from_numpy(arrays[name]) for name in arrays.files}
        self.linear = nn.Linear(30, 1568)
        self.linear.weight.data, self.linear.bias.data = v["linear.w"].T.contiguous(), v["linear.b"]
        names = [f"conv2_d_transpose{n}" for n in ("", "_1", "_2")]
        self.kernels = nn.ParameterList(v[f"{n}.w"].permute(3, 2, 0, 1).flip(-1, -2).contiguous() for n in names)
        self.biases = nn.ParameterList(v[f"{n}.b"] for n in names)

    def forward(self, t):
        v = self.linear(t).reshape(-1, 7, 7, 32).movedim(-1, 1)
        for kernel, bias in list(zip(self.kernels, self.biases, strict=True))[:2]:
            v = functional.conv_transpose2d(v, kernel, bias, stride=2)[..., :-1, :-1].relu()
        return functional.conv_transpose2d(v, self.kernels[2], self.biases[2], padding=1)


@pytest.mark.filterwarnings("ignore:.*converged")
def test_a_published_decoder_of_digits_is_scored(data_file):
    """Its logits are those that came with it, and q* of an E-step is above the published encoder's q."""
    arrays, kept = (
        np.load(data_file("Decoders", "aft_vae_params.npz")),
        np.load(data_file("Decoders", "aft_vae_check.npz")),
    )
    decoder, v = Published(arrays), {name: torch.from_numpy(kept[name]).float() for name in kept.files}
    with torch.no_grad():
        assert (decoder(v["z"]).squeeze(1) - v["logits"]).abs().max() < 1e-3
    some, index = slice(4), torch.arange(4)
    x = v["x"][some].unsqueeze(1)
    model, guide = adopt(decoder, x, 30, outputs="logits")
    encoded = guides.MeanField(4, 30).set_rows(torch.cat([v["mean"], v["std"].log()], 1)[some])
    q = evaluate.infer(model, guide, x, max_steps=500, seed=0)
    theirs, best = (evaluate.elbo(model, p, x, index, 100, seed=0).mean() for p in (encoded, q))
    assert -130 < theirs < best < -60
    assert guide.num_points == 4
