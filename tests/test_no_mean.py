r"""Reconstructions of likelihoods without a mean: refused by name, never NaN."""

import pyro.distributions as dist
import pytest
import torch

from pyro_dlgm import DLGM, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.evaluate.snapshot import Snapshot
from pyro_dlgm.report import views

D, P, C, B = 2, 16, 5, 6


class Symbols(likelihoods.Likelihood):
    r"""Creates a likelihood of P symbols, each one of five."""

    event_dim = 3

    def __init__(self):
        super().__init__()
        self.net = nets.MLP(D, (1, 4, 4, C), (8,))

    def pixels(self, t):
        return dist.Categorical(logits=self.net(t))


class Cauchy(likelihoods.Likelihood):
    def __init__(self):
        super().__init__()
        self.net = nets.MLP(D, P, (8,))

    def pixels(self, t):
        return dist.Cauchy(self.net(t), 1.0)


class Skewed(Cauchy):
    r"""Creates a likelihood whose mean has no closed form: it is taken from draws."""

    def pixels(self, t):
        return dist.TransformedDistribution(dist.Normal(self.net(t), 0.1), [dist.transforms.SigmoidTransform()])


def pair(likelihood):
    model = DLGM(priors.StandardNormal(D), likelihood)
    x = model(size=B).detach().float()
    return model, guides.Amortized(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(P, 4)), D), x


@pytest.mark.parametrize(("likelihood", "name"), [(Symbols, "Categorical"), (Cauchy, "Cauchy")])
def test_what_has_no_mean_is_refused_by_name(likelihood, name):
    model, guide, x = pair(likelihood())
    mask = torch.rand(x.shape) > 0.3
    for call in (
        lambda: evaluate.reconstruct(model, guide, x),
        lambda: evaluate.reconstruct(model, guide, x, None, 3),
        lambda: evaluate.impute(model, guide, x, mask=mask),
    ):
        with pytest.raises(ValueError, match=rf"{likelihood.__name__}.*{name}.*no mean.*sample"):
            call()


def test_a_mean_without_a_closed_form_is_that_of_draws():
    model, guide, x = pair(Skewed())
    found = evaluate.reconstruct(model, guide, x, seed=0)
    with torch.no_grad():
        assert (found - model.likelihood.net(guide.posterior(x).mean).sigmoid()).abs().max() < 0.02


def test_pictures_of_what_has_no_mean_are_left_out_with_the_reason():
    model, guide, x = pair(Symbols())
    look = Snapshot(model, guide, x)
    assert look.image_shape is None
    shown = views.reconstructions({"mine": look}, "test")
    assert "no image of one or three channels with a mean" in shown.body
