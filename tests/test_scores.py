r"""Bits per dimension: each likelihood against a computation by hand."""

import math

import pytest
import torch

from pyro_dlgm import DLGM, Points, data, guides, likelihoods, nets, priors
from pyro_dlgm.comparison import scoring
from pyro_dlgm.comparison.evaluation import lines, scores

P, D = 6, 2


def linear(heads: int = 1) -> nets.Linear:
    r"""A network that gives 0 for every code."""
    net = nets.Linear(D, P, heads=heads)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    return net


def scored(likelihood, x, transform) -> dict:
    model = DLGM(priors.StandardNormal(D), likelihood)
    guide = guides.Amortized(nets.MLP(P, 4), D)
    parts = list(scoring.block_scores(model, guide, [Points(x)], 25, 0))
    return scoring.summary(parts, scoring.bits_per_dim(likelihood, transform, P))


@pytest.mark.parametrize("levels", [17, 256])
def test_of_a_density_the_values_count_that_were_dequantized(levels):
    transform = data.Dequantize(levels)
    x = data.seeded(transform, torch.randint(levels, (8, P)), 0)
    result = scored(likelihoods.FixedNormal(linear(), 0.5), x, transform)["elbo"]
    by_hand = (P * math.log(levels) - result["mean"]) / (P * math.log(2))
    assert result["bits_per_dim"] == pytest.approx(by_hand, rel=1e-6)


def test_a_uniform_density_of_dequantized_bytes_needs_8_bits():
    bits = scoring.bits_per_dim(likelihoods.FixedNormal(linear()), data.Dequantize(256), P)
    assert bits(0.0) == pytest.approx(8)  # log of the uniform density on [0, 1]^P
    assert bits(P * math.log(2)) == pytest.approx(7)


def test_bits_of_a_density_bound_the_code_of_its_probabilities_closely():
    # −log2 of the integral over the bin of v is what v costs; the mean of log p over the bin is a little less (Jensen).
    v, normal = 140, torch.distributions.Normal(torch.tensor(0.5).double(), 0.05)
    low, high = normal.cdf(torch.tensor([v, v + 1]).double() / 256)
    code = -math.log2(high - low)
    x = data.Dequantize(256)(torch.full((20_000, 1), v).double())
    bits = scoring.bits_per_dim(likelihoods.FixedNormal(linear()), data.Dequantize(256), 1)
    assert code < bits(float(normal.log_prob(x).mean())) < code + 0.01


def test_of_a_mass_on_the_levels_it_is_the_length_of_a_code():
    x = data.Grid(256)(torch.randint(256, (8, P)))
    result = scored(likelihoods.DiscretizedLogistic(linear(2)), x, data.Grid(256))["iwae"]
    assert result["bits_per_dim"] == pytest.approx(-result["mean"] / P / math.log(2), rel=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "transform"),
    [
        (likelihoods.Bernoulli(linear()), data.Binarize()),
        (likelihoods.Bernoulli(linear()), None),
        (likelihoods.FixedNormal(linear()), data.Grid(256)),
        (likelihoods.DiagonalNormal(linear(2)), None),
        (likelihoods.ContinuousBernoulli(linear()), None),
    ],
)
def test_there_are_no_bits_of_binary_pixels_or_of_values_that_were_not_dequantized(likelihood, transform):
    assert scoring.bits_per_dim(likelihood, transform, P) is None
    result = scored(likelihood, torch.randint(2, (8, P)).float(), transform)
    assert "bits_per_dim" not in result["elbo"] and "bits" not in " ".join(lines({"test": result}))


def test_a_point_mass_has_no_bits():
    likelihood = likelihoods.DiscretizedLogistic(linear(2))
    model, guide = DLGM(priors.StandardNormal(D), likelihood), guides.PointEstimate(3, D)
    parts = list(scoring.block_scores(model, guide, (torch.zeros(3, P),), 25, 0))
    result = scoring.summary(parts, scoring.bits_per_dim(likelihood, data.Grid(256), P))
    assert "log_joint" in result and "bits_per_dim" not in result["log_joint"]


def test_the_order_of_the_scores_is_that_of_the_table_in_each_process():
    model, guide = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(linear(), 0.5)), guides.MeanField(3, D)
    parts = list(scoring.block_scores(model, guide, (torch.zeros(3, P),), 25, 0))
    names = ["points", "elbo", "iwae", "ess", "pareto_k", "unconverged"]
    assert list(scoring.summary(parts)) == names
    assert [title for title, *_ in scores(scoring.summary(parts))] == [
        "ELBO",
        "IWAE",
        "ESS, median",
        "Pareto k̂, median",
    ]
