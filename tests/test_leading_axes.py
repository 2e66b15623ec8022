r"""Networks that do not take axes on the left are refused before they train, and changed by no question."""

import functools

import pytest
import torch
from cases import same, tensors
from torch import nn

from pyro_dlgm import DLGM, Points, data, evaluate, fit, guides, likelihoods, nets, priors

D, SHAPE, B = 3, (1, 4, 4), 12


def plain_conv():
    r"""What one would write: it takes (B, D) alone."""
    return nn.Sequential(
        nn.Linear(D, 32), nn.Unflatten(1, (2, 4, 4)), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)
    )


class View(nn.Module):
    r"""Creates a network that flattens all leading axes, and leaves them so."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(D, 16), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, t):
        return self.last(self.first(t).view(-1, 1, 4, 4))


def norm(width: int):
    r"""With B equal to ``width`` it takes (K, B, D), the points for its channels."""
    return nn.Sequential(nn.Linear(D, width), nn.BatchNorm1d(width), nn.ELU(), nn.Linear(width, 16))


class Centred(nn.Module):
    r"""Creates a network that subtracts the mean of the second axis: features of (B, D), points of (K, B, D)."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(D, 16)

    def forward(self, t):
        y = self.body(t)
        return y - y.mean(1, keepdim=True)


NETWORKS = [
    (plain_conv, SHAPE),
    (View, SHAPE),
    # The question has axes (2, 3) and (3, 2), which the first two take for channels; scores have (K, B).
    *[(functools.partial(norm, width), (16,)) for width in (2, 3, B)],
    (Centred, (16,)),
]


def pair(net, shape):
    model = DLGM(priors.StandardNormal(D), likelihoods.Bernoulli(net))
    guide = guides.Amortized(nets.MLP(shape, 8), D)
    return model, guide, torch.rand(B, *shape, generator=torch.Generator().manual_seed(0)).bernoulli()


@pytest.mark.parametrize(("make", "shape"), NETWORKS)
def test_they_are_refused_by_fit_and_by_all_that_judges(make, shape):
    model, guide, x = pair(make(), shape)
    rows = guides.MeanField(B, D)
    before, state = tensors(model, guide), torch.get_rng_state()
    calls = [
        lambda: fit(model, guide, x, steps=1),
        lambda: fit(model, guide, x, steps=1, transform=data.Binarize()),
        lambda: fit(model, guide, iter([Points(x)] * 3), steps=1, size=B),
        lambda: evaluate.elbo(model, guide, x, None, 5),
        lambda: evaluate.log_joint(model, guide, x, None, 5),
        lambda: evaluate.ais(model, None, x, None, 2, 2),
        lambda: evaluate.reconstruct(model, guide, x, None, 3),
        lambda: evaluate.infer(model, rows, x, max_steps=1),
        lambda: evaluate.bdmc(model, None, 2, 2, 2),
        lambda: evaluate.check_calibration(model, guide, num_points=50, num_samples=2),
        lambda: evaluate.diagnose(model, guide, x, num_simulated=0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"nets\.Net\("):
            call()
    assert same(before, tensors(model, guide))
    assert torch.equal(state, torch.get_rng_state()) and model.training and guide.training


@pytest.mark.parametrize(("make", "shape"), NETWORKS[:1] + NETWORKS[2:])
def test_wrapped_they_train_and_are_scored_right(make, shape):
    model, guide, x = pair(nets.Net(D, shape, make()), shape)
    fit(model, guide, x, steps=2, batch_size=6, seed=0)
    table = evaluate.log_weights(model, guide, x, None, 4, seed=0)
    assert table.shape == (4, B)
    model.eval()
    t = torch.randn(4, B, D)
    one_by_one = torch.stack([model.log_joint(x, code) for code in t])
    torch.testing.assert_close(model.log_joint(x, t), one_by_one, atol=1e-4, rtol=1e-4)


def test_buffers_of_batch_norm_are_left_by_a_question():
    net = nets.Net(D, 16, norm(5))
    model, guide, x = pair(net, (16,))
    before = tensors(model)
    evaluate.elbo(model, guide, x, None, 2)
    assert same(before, tensors(model)) and net.body[1].training


def test_what_takes_any_axes_is_not_refused():
    class Random(nn.Module):
        r"""Creates a network with noise of its own: asked twice under one seed, it says the same."""

        def __init__(self):
            super().__init__()
            self.body = nn.Linear(D, 16)

        def forward(self, t):
            y = self.body(t)
            return y + torch.randn_like(y)

    for net in (nn.Sequential(nn.Linear(D, 16), nn.LayerNorm(16)), Random(), nets.MLP(D, 16, (4,))):
        model, guide, x = pair(net, (16,))
        evaluate.elbo(model, guide, x, None, 2)
        fit(model, guide, x, steps=1)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D + 2, 16, (4,)), 1e-2))
    evaluate.iwae(model, guides.Amortized(nets.MLP(16, 8), D, given_dim=2), x, None, 2, given=torch.randn(B, 2))
