r"""Mistakes of a first program, and what the messages tell its author to write."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

from pyro_dlgm import DLGM, SVI, evaluate, fit, guides, likelihoods, nets, priors

N, P, B = 20, 3, 10
X, GIVEN, INDEX = torch.randn(N, P), torch.randn(N, 1), torch.arange(N)
W = torch.ones(2, P)


def program_of(plate, event: int = 1, shift=lambda given: 0.0):
    r"""A factor analysis in the plate ``plate(x, index, size)``, with that number of event axes of x."""

    def program(x=None, index=None, *, given=None, size=None):
        with plate(x, index, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z @ W + shift(given), 1.0).to_event(event), obs=x)

    return program


def good(x, index, size):
    return pyro.plate("data", size or len(x), subsample=index)


def train(program, **parts):
    guide = guides.AutoPerPoint(program, N)
    fit(program, guide, X, epochs=1, batch_size=B, progress=False, **parts)
    return guide


def test_the_recommended_plate_trains_and_is_scored():
    program = program_of(good)
    assert evaluate.elbo(program, train(program), X, INDEX, 2).shape == (N,)


def test_a_plate_that_needs_size_is_told_what_to_write():
    program = program_of(lambda x, index, size: pyro.plate("data", size, subsample=index))
    with pytest.raises(ValueError, match=r"program was called with size=None, and failed \(AssertionError\); expected"):
        guides.AutoPerPoint(program, N).setup(X, INDEX)
    with pytest.raises(ValueError, match=r"pyro.plate\(name, size or len\(x\), subsample=index\)"):
        evaluate.elbo(program, train(program), X, INDEX, 2)


def test_a_program_without_size_is_told_the_plate_that_works():
    with pytest.raises(ValueError, match=r"pyro.plate\('data', size or len\(x\), subsample=index\)"):
        fit(without := _without_size, guides.AutoPerPoint(without, N), X, epochs=1, batch_size=B, progress=False)


def _without_size(x=None, index=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ W, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("shift", [lambda given: given[:, :1], lambda given: dist.Normal(given, 1.0).mean])
def test_a_program_that_needs_given_is_told_that_it_was_none(shift):
    program = program_of(good, shift=shift)
    with pytest.raises(ValueError, match=r"program was called with given=None, and failed .*expected given= with the"):
        train(program)
    guide = train(program, given=GIVEN)
    with pytest.raises(ValueError, match="given=None and size=None"):
        evaluate.elbo(program, guide, X, INDEX, 2)
    assert evaluate.elbo(program, guide, X, INDEX, 2, given=GIVEN).isfinite().all()


def test_an_error_that_is_not_about_what_is_absent_stays_as_it_is():
    def broken(given):
        raise TypeError("a string for a number")

    with pytest.raises(TypeError, match=r"^a string for a number"):
        train(program_of(good, shift=broken))


def whole(x, index, size):
    return pyro.plate("data", size or len(x))


@pytest.mark.parametrize("shift", [lambda given: 0.0, lambda given: given])
def test_a_plate_of_all_points_in_a_batch_is_named(shift):
    with pytest.raises(ValueError, match=r"'data' of the program has 20 points, and the batch 8; .*subsample=index\)"):
        train(program_of(whole, shift=shift), given=GIVEN)


class Own(guides.Guide):
    r"""A guide of a user: q(z) is the same for each point."""

    def __init__(self):
        super().__init__(latent="z")
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def posterior(self, x=None, index=None, mask=None):
        return dist.Normal(self.loc, 1.0).to_event(1).expand((len(x),))


class OtherPoints(Own):
    r"""A guide whose plate takes points of the data at random, not those of the batch."""

    def data_plate(self, x, index, size):
        return pyro.plate("data", size, subsample_size=len(x))


def test_the_author_of_a_guide_is_told_how_to_write_one():
    program = Module(program_of(good))
    with pytest.raises(ValueError, match=r"OtherPoints has other points .*inherit from guides.Guide and write"):
        fit(program, OtherPoints(), X, epochs=1, batch_size=B, progress=False)


class Module(PyroModule):
    r"""A program as a module."""

    def __init__(self, program):
        super().__init__()
        self.program = program

    def forward(self, x=None, index=None, *, given=None, size=None):
        return self.program(x, index, given=given, size=size)


def test_a_plate_of_all_points_is_named_with_a_guide_of_ones_own():
    program = Module(program_of(whole))
    with pytest.raises(ValueError, match=r"'data' of the program has 20 points, and the batch 10; .*subsample=index\)"):
        fit(program, Own(), X, epochs=1, batch_size=B, progress=False)
    fit(program, Own(), X, epochs=1, batch_size=N, progress=False)  # one batch of all points


def flat(width: int, dim: int = -1, event: int = 1):
    r"""A program of points of that width, with a number of each point that has no axis for a plate at −1."""

    def program(x=None, index=None, *, given=None, size=None):
        with pyro.plate("data", size or len(x), subsample=index, dim=dim):
            t = pyro.sample("t", dist.Normal(0.0, 1.0))
            mean = (given[:, 0] + t).unsqueeze(-1).expand(*(given[:, 0] + t).shape, width)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(event), obs=x[:, :width])

    return program


@pytest.mark.parametrize("width", [1, P])
def test_a_missing_event_axis_is_told_to_event(width):
    with pytest.raises(ValueError, match=r"expected one .*: \.to_event\(k\)") as raised:
        train(flat(width, event=0), given=GIVEN)
    assert "@" not in str(raised.value) and "dim=-2" not in str(raised.value)
    train(flat(width), given=GIVEN)


def test_a_plate_at_another_dimension_is_told_the_shape_of_its_points():
    words = r"is at dim=-2, where .* the shape \(B, 1\); put it at dim=-1, or write v\[\.\.\., None\] for v of shape"
    with pytest.raises(ValueError, match=words) as raised:
        train(flat(P, dim=-2), given=GIVEN)
    assert "@" not in str(raised.value)


def test_positions_from_the_left_are_told_to_broadcast():
    def program(x=None, index=None, *, size=None):
        with good(x, index, size):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z[:, :1] + torch.zeros(P), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"count axes from the right") as raised:
        evaluate.elbo(program, train(program), X, INDEX, 2)
    assert "to_event" not in str(raised.value)


SWAPPED = [
    lambda model, guide: fit(guide, model, X, epochs=1, progress=False),
    lambda model, guide: SVI(guide, model),
    lambda model, guide: evaluate.elbo(guide, model, X),
    lambda model, guide: evaluate.log_weights(guide, model, X),
    lambda model, guide: evaluate.reconstruct(guide, model, X),
    lambda model, guide: evaluate.ais(guide, model, X),
    lambda model, guide: evaluate.diagnose(guide, model, X),
    lambda model, guide: evaluate.gaps(guide, model, X),
]


@pytest.mark.parametrize("call", SWAPPED)
def test_a_swapped_pair_is_refused(call):
    r"""Both are programs with the sites t and x: without the check, F would be a number."""
    with pytest.raises(TypeError, match=r"expected the model first and its guide after it"):
        call(*pair())


def test_a_guide_of_a_function_is_no_model():
    program = program_of(good)
    with pytest.raises(TypeError, match=r"model is AutoPerPoint, a guide; expected the model first"):
        fit(guides.AutoPerPoint(program, N), program, X, epochs=1, progress=False)


def pair(net=None, encoder=None):
    net = nets.Linear(2, P) if net is None else net
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(net))
    return model, guides.Amortized(nets.Linear(P, 4) if encoder is None else encoder, 2)


def test_an_encoder_of_another_width_is_named_with_the_shape_of_x():
    model, guide = pair(encoder=torch.nn.Linear(P + 1, 4))
    expected = r"encoder Linear failed at shape \(2, 3\) .*; expected a network from x \(B, 3\) to features \(B, H\)"
    with pytest.raises(ValueError, match=expected):
        fit(model, guide, X, epochs=1, progress=False)


def test_a_decoder_of_other_codes_is_named_with_d():
    model, guide = pair(net=torch.nn.Linear(5, P))
    with pytest.raises(
        ValueError, match=r"likelihood FixedNormal failed .*; expected a network that decodes t \(B, 2\)"
    ):
        fit(model, guide, X, epochs=1, progress=False)


def test_a_body_with_another_number_of_outputs_is_told_how_many():
    with pytest.raises(
        ValueError, match=r"body of Net returned shape \(7, 5\) for 7 points; expected 6 numbers for each"
    ):
        nets.Net(2, 3, torch.nn.Linear(2, 5), heads=2)(torch.randn(7, 2))


def test_a_number_of_points_to_generate_is_size():
    model, guide = pair()
    for program in (model, guide):
        with pytest.raises(TypeError, match=r"x is 5; expected a tensor .*: size=5"):
            program(5)
