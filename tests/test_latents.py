r"""What a program says of its points one by one, against densities that are written out by hand."""

import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import ONE, PROGRAMS, ZERO, B, N, T, hand, of_point, points, real
from torch import Tensor

from pyro_dlgm import Points
from pyro_dlgm.latents.local import LocalModel


def local(name: str, model=None) -> tuple[LocalModel, Points]:
    r"""The model of the points of a program, given its globals, and some points."""
    case, some = PROGRAMS[name], PROGRAMS[name].points()
    made = LocalModel(case.make() if model is None else model, "data", some, N if case.sized else None)
    return made.at(case.globals), some


@pytest.fixture(params=programs.NAMES)
def name(request):
    return request.param


def jacobian(case, made: LocalModel, u: Tensor, i: int) -> Tensor:
    r"""log |det| of the coordinates of the latents of one point by its u, by automatic differentiation."""

    def flat(part: Tensor) -> Tensor:
        values = of_point(case, made.named(torch.cat([u[:i], part.unsqueeze(0), u[i + 1 :]])), i)
        parts = [case.coordinates.get(n, lambda v: v)(v).flatten() for n, v in values.items()]
        return torch.cat(parts)

    return torch.linalg.slogdet(torch.autograd.functional.jacobian(flat, u[i])).logabsdet


def by_hand(case, made: LocalModel, some: Points, u: Tensor) -> Tensor:
    r"""log p(x, u | globals) of each point, (B,)."""
    values, found = made.named(u), []
    for i in range(len(some)):
        beside = {n: v[i] for n, v in (("mask", some.mask), ("given", some.given)) if v is not None}
        density = hand(case, of_point(case, values, i), some.x[i], **beside)
        found.append(density.squeeze() + jacobian(case, made, u, i))
    return torch.stack(found)


# Densities


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_the_joint_density_is_that_by_hand(name, lead):
    made, some = local(name)
    case = PROGRAMS[name]
    u = torch.randn(*lead, B, case.width).double()
    found = made.log_joint(some, u)
    assert found.shape == (*lead, B) and found.dtype == torch.float64
    flat = torch.stack([by_hand(case, made, some, each) for each in u.reshape(-1, B, case.width)])
    torch.testing.assert_close(found, flat.reshape(*lead, B), rtol=1e-10, atol=1e-10)


def test_the_layout_has_as_many_numbers_as_the_latents(name):
    assert local(name)[0].latent_dim == PROGRAMS[name].width


@pytest.mark.parametrize("lead", [(), (5,)])
def test_named_and_vector_are_inverse(name, lead):
    made, _ = local(name)
    u = torch.randn(*lead, B, made.latent_dim).double()
    values = made.named(u)
    torch.testing.assert_close(made.layout.vector(values), u, rtol=1e-9, atol=1e-9)
    for site, value in values.items():
        again = made.named(made.layout.vector(values))[site]
        torch.testing.assert_close(again, value, rtol=1e-10, atol=1e-12)


def test_named_values_have_the_shapes_of_the_program(name):
    case, some = PROGRAMS[name], PROGRAMS[name].points()
    made = LocalModel(case.make(), "data", some, N if case.sized else None)
    call = {k: v for k, v in some.keywords.items() if v is not None}
    model = case.make()
    args = (some.x,) if name == "alone" else (some.x, some.index)
    trace = pyro.poutine.trace(model).get_trace(*args, **call)
    for site, value in made.named(torch.zeros(B, made.latent_dim).double()).items():
        assert value.shape == trace.nodes[site]["value"].shape, site
        assert trace.nodes[site]["fn"].support.check(value).all()


EXPLICIT = {
    "bounded": lambda u: {"a": -3 + 5 * u[:, 0].sigmoid(), "b": u[:, 1].sigmoid(), "c": u[:, 2].exp()},
    "gamma_poisson": lambda u: {"z": u[:, 0].exp()},
    "series": lambda u: {"level": u[:, 0], "v": u[:, 1:].mT},
    "turned": lambda u: {"level": u[:, :1], "v": u[:, 1:]},
    "matrix": lambda u: {"z": u.reshape(-1, 2, 3).exp()},
    "chain": lambda u: {"z1": u[:, 0], "z2": u[:, 1]},
}


@pytest.mark.parametrize("name", EXPLICIT)
def test_values_are_those_of_the_transforms_written_out(name):
    made, _ = local(name)
    u = torch.randn(B, made.latent_dim).double()
    expected = EXPLICIT[name](u)
    for site, value in made.named(u).items():
        assert value.reshape(expected[site].shape).shape == expected[site].shape
        torch.testing.assert_close(value, expected[site], rtol=1e-12, atol=1e-12)


def test_the_density_of_a_point_is_one_of_its_own_u(name):
    made, some = local(name)
    u = torch.randn(B, made.latent_dim).double().requires_grad_()
    for i in range(B):
        (grad,) = torch.autograd.grad(made.log_joint(some, u)[i], u)
        assert (grad.norm(dim=-1) > 0).tolist() == [j == i for j in range(B)]


def test_the_joint_density_has_no_scale_of_the_plate(name):
    made, some = local(name)
    u = torch.randn(B, made.latent_dim).double()
    halves = [made.log_joint(some[rows], u[rows]) for rows in (slice(0, 3), slice(3, B))]
    torch.testing.assert_close(torch.cat(halves), made.log_joint(some, u), rtol=1e-12, atol=1e-12)


def test_the_density_is_one_for_blocks_of_one_point(name):
    made, some = local(name)
    u = torch.randn(2, B, made.latent_dim).double()
    single = [made.log_joint(some[i : i + 1], u[:, i : i + 1]) for i in range(B)]
    torch.testing.assert_close(torch.cat(single, -1), made.log_joint(some, u), rtol=1e-12, atol=1e-12)


def test_nothing_around_a_call_changes_or_sees_it(name):
    made, some = local(name)
    u = torch.randn(B, made.latent_dim).double()
    expected, state = made.log_joint(some, u), torch.get_rng_state()
    trace = pyro.poutine.trace()
    with pyro.poutine.scale(scale=3.0), pyro.poutine.mask(mask=False), pyro.plate("other", 2, dim=-4), trace:
        torch.testing.assert_close(made.log_joint(some, u), expected, rtol=0, atol=0)
    assert not [n for n in trace.trace.nodes if n in made.sites]
    assert torch.equal(state, torch.get_rng_state())


def test_the_global_state_is_as_before_when_a_program_was_traced(name):
    state = torch.get_rng_state()
    case = PROGRAMS[name]
    some = case.points()
    torch.set_rng_state(state)
    LocalModel(case.make(), "data", some, N if case.sized else None)
    assert torch.equal(state, torch.get_rng_state())


# Priors


@pytest.mark.parametrize("name", [n for n in programs.NAMES if n not in programs.DISCRETE])
def test_the_prior_is_the_joint_density_without_what_is_observed(name):
    made, some = local(name)
    u = torch.randn(3, B, made.latent_dim).double()
    emitted = made.log_joint(some, u) - made.log_prior(some, u)
    values = made.named(u)
    if made.seen.observed is None or name in ("series", "conditioned", "correlation"):
        return
    p = made.emission_at(some, u)
    assert p.batch_shape == (3, B) and p.event_shape == some.x.shape[1:]
    assert values and emitted.shape == (3, B)
    inner = p.fn.log_prob(some.x)
    torch.testing.assert_close(emitted, inner.reshape(3, B, -1).sum(-1), rtol=1e-9, atol=1e-9)


MOMENTS = {  # of each unconstrained number: mean, variance
    "normal": ([0.7], [1.0]),
    "chain": ([0.0, 0.0], [1.0, 0.64 + 0.25]),
    "series": ([0.0] * 4, [1.0] + [1.36] * 3),
    "turned": ([0.0, 0.3, -1.0, 2.0], [1.0] + [1.36] * 3),
    "matrix": ([0.0] * 6, [1.0] * 6),
    "gamma_poisson": ([float(torch.digamma(2 * ONE) - real(1.3).log())], [float(torch.polygamma(1, 2 * ONE))]),
    "bounded": (
        [0.0, float(torch.digamma(2 * ONE) - torch.digamma(3 * ONE)), 0.0],
        [torch.pi**2 / 3, None, torch.pi**2 / 4],
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_draws_of_the_prior_have_its_moments(name):
    made, some = local(name)
    u = made.prior_at(some).sample((6000,))
    assert u.shape == (6000, B, made.latent_dim)
    mean, var = MOMENTS[name]
    flat = u.reshape(-1, made.latent_dim)
    for j, (m, v) in enumerate(zip(mean, var, strict=True)):
        spread = flat[:, j].std()
        assert abs(float(flat[:, j].mean()) - m) < 5 * float(spread) / len(flat) ** 0.5
        if v is not None:
            assert float(flat[:, j].var()) == pytest.approx(v, rel=0.06)


@pytest.mark.parametrize("name", ["gamma_poisson", "simplex", "bounded", "turned"])
def test_the_prior_density_is_that_of_its_draws(name):
    r"""E_p exp(log r(u) − log p(u)) = 1 for any density r. (LKJCholesky of torch is left out, see below.)"""
    made, some = local(name)
    with torch.no_grad():
        u = made.prior_at(some).sample((20000,))
        log_p = made.prior_at(some).log_prob(u)
    flat = u.reshape(-1, made.latent_dim)
    r = torch.distributions.MultivariateNormal(flat.mean(0), 0.3 * flat.T.cov().reshape(made.latent_dim, -1))
    ratio = (r.log_prob(u) - log_p).exp()
    assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * float(ratio.std()) / ratio.numel() ** 0.5)


def test_torch_draws_correlations_from_another_distribution_than_its_density():
    r"""What simulates such points, as `evaluate.bdmc`, is wrong with it, from three dimensions on."""
    made, some = local("correlation")
    u = made.prior_at(some).sample((5000,))
    flat = u.reshape(-1, 3)
    r = torch.distributions.MultivariateNormal(flat.mean(0), 0.1 * flat.T.cov())
    drawn = (r.log_prob(u) - made.prior_at(some).log_prob(u)).exp().mean()
    wide = torch.distributions.MultivariateNormal(flat.mean(0), 2.5 * flat.T.cov())
    v = wide.sample((5000, B))
    mass = (made.prior_at(some).log_prob(v) - wide.log_prob(v)).exp().mean()
    assert float(drawn) < 0.6 and float(mass) == pytest.approx(1.0, abs=0.05)


def test_draws_of_a_prior_given_many_values_of_the_globals_are_given_theirs():
    made, some = local("normal")
    many = made.at({"mu": real(-50.0, 0.0, 50.0).unsqueeze(-1)})
    with torch.no_grad():
        u = many.draw_prior(some, 3)
    assert (u - real(-50.0, 0.0, 50.0).view(3, 1, 1)).abs().max() < 10


# Discrete latents


def mixed(x, index=None, *, size=None):
    r"""Two discrete latents, one of which depends on the other, and a plate of features whose x depends on both."""
    with points(x, index, size):
        k = pyro.sample("k", dist.Categorical(real(0.2, 0.5, 0.3)))
        m = pyro.sample("m", dist.Bernoulli(real(0.1, 0.7, 0.4)[k]))
        z = pyro.sample("z", dist.Gamma(2 + m, ONE))
        with pyro.plate("time", T, dim=-2):
            pyro.sample("x", dist.Normal(z + real(-2.0, 0.0, 3.0)[k], 1 + m), obs=x.mT)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_discrete_latents_are_summed_out(lead):
    some = Points(torch.randn(B, T).double(), torch.arange(B))
    made = LocalModel(mixed, "data", some)
    assert made.seen.discrete == ("k", "m") and made.latent_dim == 1
    u = torch.randn(*lead, B, 1).double()
    z, terms = u.exp().squeeze(-1), []
    for k in range(3):
        for m in range(2):
            share = real(0.2, 0.5, 0.3)[k].log() + dist.Bernoulli(real(0.1, 0.7, 0.4)[k]).log_prob(real(m).squeeze())
            x = dist.Normal((z + (-2.0, 0.0, 3.0)[k]).unsqueeze(-1), 1.0 + m).log_prob(some.x).sum(-1)
            terms.append(share + dist.Gamma(2.0 + m, ONE).log_prob(z) + x)
    expected = torch.stack(terms).logsumexp(0) + u.squeeze(-1)
    torch.testing.assert_close(made.log_joint(some, u), expected, rtol=1e-10, atol=1e-10)


def test_what_depends_on_a_discrete_latent_is_not_said_to_be_one_distribution():
    some = Points(torch.randn(B, T).double(), torch.arange(B))
    made = LocalModel(mixed, "data", some)
    with pytest.raises(ValueError, match="no discrete latent"):
        made.emission_at(some, torch.zeros(B, 1).double())


# Refusals


def said(program, words: str, plate: str = "data", x=None, error=ValueError, **beside):
    some = Points(torch.randn(B).double() if x is None else x, torch.arange(B), **beside)
    with pytest.raises(error, match=words) as raised:
        LocalModel(program, plate, some)
    assert "\n" not in str(raised.value)


def program(story):
    r"""A program from its story in the plate; it observes x at what the story returns."""

    def made(x, index=None):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(story(x), ONE), obs=x)

    return made


def test_an_unknown_plate_is_named_with_those_that_there_are():
    said(programs.normal, r"plate is 'cells'; expected one of the program's: 'data'", plate="cells")
    said(lambda x: pyro.sample("z", dist.Normal(ZERO, ONE)), "expected one of the program's: none")


def test_a_plate_without_latents_is_named():
    said(program(lambda x: ZERO), "the plate 'data' holds no latent")


def test_a_program_that_observes_nothing_is_named():
    def forgotten(x, index=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            pyro.sample("x", dist.Normal(z, ONE))

    said(forgotten, "no site in the plate 'data' is observed.*; expected one that is: .* obs=x")

    def elsewhere(x):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0), obs=torch.tensor(1.0))
        forgotten(x)

    said(elsewhere, "no site in the plate 'data' is observed")


def test_a_sequential_plate_is_named():
    def looped(x):
        for i in pyro.plate("data", len(x)):
            z = pyro.sample(f"z_{i}", dist.Normal(ZERO, ONE))
            pyro.sample(f"x_{i}", dist.Normal(z, ONE), obs=x[i])

    said(looped, "in the sequential plate 'data'; expected plates as contexts")

    def inner(x):
        with pyro.plate("data", len(x)):
            for t in pyro.plate("time", 2):
                pyro.sample(f"z_{t}", dist.Normal(ZERO, ONE))

    said(inner, "'z_0' is in the sequential plate 'time'")


def test_a_subsampled_plate_within_a_point_is_named():
    def part(x):
        with pyro.plate("data", len(x)), pyro.plate("genes", 9, subsample_size=3, dim=-2):
            pyro.sample("z", dist.Normal(ZERO, ONE))

    said(part, "'z' is in the plate 'genes', which holds 3 of 9")


@pytest.mark.parametrize(
    "story",
    [
        lambda x: pyro.sample("b", dist.Uniform(ZERO, pyro.sample("a", dist.Gamma(ONE, ONE)))),
        lambda x: pyro.sample("b", dist.Uniform(ZERO, 1 + torch.arange(len(x)).double())),
        lambda x: pyro.sample("b", dist.Pareto(pyro.sample("a", dist.Gamma(ONE, ONE)), ONE)),
        lambda x: pyro.sample(
            "b",
            dist.Uniform(ZERO.expand(2), pyro.sample("a", dist.Gamma(ONE, ONE)).unsqueeze(-1).expand(-1, 2)).to_event(
                1
            ),
        ).sum(-1),
    ],
)
def test_a_support_that_is_not_constant_is_named(story):
    said(program(story), "the support of 'b' differs between points, or depends on another site")


def test_a_support_that_depends_on_a_global_latent_is_named():
    def made(x):
        top = pyro.sample("top", dist.Gamma(ONE, ONE))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("b", dist.Uniform(ZERO, top)), ONE), obs=x)

    said(made, "the support of 'b'")


def test_a_support_that_depends_on_a_parameter_is_named():
    def made(x):
        top = pyro.param("top", 2 * ONE)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("b", dist.Uniform(ZERO, top)), ONE), obs=x)

    said(made, "the support of 'b'")


def test_discrete_latents_that_cannot_be_summed_out_are_named():
    counts = program(lambda x: pyro.sample("z", dist.Normal(ZERO, ONE)) + pyro.sample("k", dist.Poisson(ONE)))
    said(counts, r"'k' is a discrete latent \(Poisson\) that cannot be summed out")

    def nested(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(ZERO, ONE))
            with pyro.plate("time", 2, dim=-2):
                pyro.sample("k", dist.Bernoulli(0.5 * ONE))

    said(nested, "'k' is a discrete latent")
    said(program(lambda x: pyro.sample("k", dist.Bernoulli(0.5 * ONE))), "the latents of the plate 'data' are discrete")


# Points that depend on each other


def walk(x):
    with pyro.plate("data", len(x)):
        step = pyro.sample("step", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(step.cumsum(-1), ONE), obs=x)


def backwards(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(torch.cat([z[..., 1:], z[..., -1:]], -1), ONE), obs=x)


def couples(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        other = z[..., (torch.arange(len(x)) ^ 1).clamp(max=len(x) - 1)]
        pyro.sample("x", dist.Normal(other, ONE), obs=x)


def last_of_all(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(z + z[..., -1:], ONE), obs=x)


def first_of_all(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(z + z[..., :1], ONE), obs=x)


def centred(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("x", dist.Normal(z - z.mean(-1, keepdim=True), ONE), obs=x)


@pytest.mark.parametrize("story", [walk, backwards, couples, first_of_all, last_of_all, centred])
def test_points_that_depend_on_each_other_are_refused(story):
    said(story, "depends on the latents of other points in the plate 'data'", x=torch.randn(B).double())


def test_a_site_outside_of_the_plate_that_sums_over_points_is_named():
    def summed(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.sample("total", dist.Normal(z.sum(), ONE), obs=ONE)

    said(summed, "site 'total', outside of that plate, depends on the latents of other points")

    def factor(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
        pyro.factor("penalty", -z.square().sum())

    said(factor, "site 'penalty', outside of that plate")

    def globally(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            pyro.sample("x", dist.Normal(z, ONE), obs=x)
        pyro.sample("top", dist.Normal(z.sum(), ONE))

    said(globally, "site 'top', outside of that plate")


# What is missing


def test_global_latents_without_values_are_named():
    some = PROGRAMS["normal"].points()
    made = LocalModel(programs.normal, "data", some)
    for call in (lambda: made.log_joint(some, torch.zeros(B, 1).double()), lambda: made.draw_prior(some, 2)):
        with pytest.raises(ValueError, match=r"the global latents 'mu',.*given_globals"):
            call()
    with pytest.raises(ValueError, match=r"globals are \['nu'\]; expected values of \['mu'\]"):
        made.at({"nu": ONE})
    with pytest.raises(ValueError, match=r"globals are \[\]; expected"):
        made.at({})


def test_what_a_program_does_not_take_is_refused_by_name():
    x = torch.randn(B).double()
    said(programs.normal, "mask was given, and normal takes no mask", mask=torch.ones(B).bool())
    said(programs.normal, "given was given, and normal takes no given", given=torch.ones(B, 1).double())
    made = LocalModel(programs.normal, "data", Points(x)).at(PROGRAMS["normal"].globals)
    with pytest.raises(ValueError, match="mask was given, and normal takes no mask"):
        made.log_joint(Points(x, mask=torch.ones(B).bool()), torch.zeros(B, 1).double())


def test_a_program_with_further_arguments_is_told_to_bind_them():
    def more(x, index, scale, *, depth):
        pass

    said(more, "more needs 'scale', 'depth' as well; .*functools.partial", error=TypeError)


def test_a_latent_that_comes_and_goes_is_named():
    def now_and_then(x, index, *, size=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            if len(x) < B:
                z = z + pyro.sample("more", dist.Normal(ZERO, ONE))
            pyro.sample("x", dist.Normal(z, ONE), obs=x)

    some = Points(torch.randn(B).double(), torch.arange(B))
    made = LocalModel(now_and_then, "data", some)
    with pytest.raises(ValueError, match="the program sampled 'more'"):
        made.log_joint(some[:2], torch.zeros(2, 1).double())


def test_counts_are_points_of_a_program_in_float64():
    def counted(x, index=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), ONE).to_event(1))
            pyro.sample("x", dist.Poisson((z @ real(0.5, -0.5)).exp()), obs=x)

    some = Points(torch.randint(5, (B,)), torch.arange(B))
    made = LocalModel(counted, "data", some)
    u = torch.randn(B, 2).double()
    x = torch.distributions.Poisson((u @ real(0.5, -0.5)).exp()).log_prob(some.x)
    expected = torch.distributions.Normal(ZERO, 1.0).log_prob(u).sum(-1) + x
    torch.testing.assert_close(made.log_joint(some, u), expected, rtol=1e-10, atol=1e-10)


def test_x_is_only_what_the_program_observes_as_it_is():
    def of_logs(x, index=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            pyro.sample("log_x", dist.Normal(z, ONE), obs=x.log())

    some = Points(torch.rand(B).double(), torch.arange(B))
    with pytest.raises(ValueError, match="not the distribution of one site in 'data' with the value x"):
        LocalModel(of_logs, "data", some).emission_at(some, torch.zeros(B, 1).double())


def test_as_many_times_as_points_do_not_make_x_of_its_transpose():
    some = Points(torch.randn(T, T).double(), torch.arange(T))
    made = LocalModel(programs.series, "data", some)
    u = torch.randn(T, made.latent_dim).double()
    try:
        p = made.emission_at(some, u)
    except ValueError:
        return
    torch.testing.assert_close(p.mean, u[:, 1:])


@pytest.mark.parametrize("num", [1, 2, B, N])
def test_the_size_of_a_plate_that_knows_it_is_found_in_any_batch(num):
    some = PROGRAMS["fixed"].points(num)
    assert LocalModel(programs.fixed, "data", some).seen.plate_size == N
    assert LocalModel(programs.alone, "data", some).seen.plate_size is None


def test_a_wrong_network_is_told_where_axes_go():
    def convolved(x, index=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), ONE).to_event(1))
            pyro.sample(
                "x",
                dist.Normal(
                    torch.nn.functional.conv1d(z.unsqueeze(1), torch.ones(1, 1, 1).double()).squeeze(1), ONE
                ).to_event(1),
                obs=x,
            )

    some = Points(torch.randn(B, 2).double(), torch.arange(B))
    with pytest.raises(ValueError, match="count axes from the right"):
        LocalModel(convolved, "data", some).check_axes(some)


class Centred(torch.nn.Module):
    r"""It subtracts the mean over points while it is trained, as a `BatchNorm1d` does; for any leading axes."""

    def forward(self, z: Tensor) -> Tensor:
        return z - z.mean(-1, keepdim=True) if self.training else z


def test_a_program_is_looked_at_in_eval_mode_and_left_as_it_was():
    class Normed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = Centred()

        def forward(self, x, index=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(ZERO, ONE))
                pyro.sample("x", dist.Normal(self.norm(z), ONE), obs=x)

    some = Points(torch.randn(B).double(), torch.arange(B))
    model = Normed()
    LocalModel(model, "data", some).check_axes(some)
    assert model.training and model.norm.training


def test_a_handler_of_masks_in_the_program_is_heeded():
    def program(x, index=None, *, mask=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(ZERO, ONE))
            with pyro.poutine.mask(mask=mask):
                pyro.sample("x", dist.Normal(z, ONE), obs=x)

    some = Points(torch.randn(B).double(), torch.arange(B), torch.tensor([True, False, True, False]))
    u = torch.randn(3, B, 1).double()
    z = u.squeeze(-1)
    terms = torch.where(some.mask, torch.distributions.Normal(z, 1.0).log_prob(some.x), 0.0)
    expected = torch.distributions.Normal(ZERO, 1.0).log_prob(z) + terms
    torch.testing.assert_close(LocalModel(program, "data", some).log_joint(some, u), expected, rtol=1e-12, atol=1e-12)


def test_points_are_simulated_given_the_globals():
    made = LocalModel(programs.normal, "data", PROGRAMS["normal"].points(), N).at({"mu": 50 * ONE})
    some, u = made.simulated(4000)
    assert some.x.shape == (4000,) and u.shape == (4000, 1) and torch.equal(some.index, torch.arange(4000))
    assert float(some.x.mean()) == pytest.approx(50.0, abs=0.1) and float(u.mean()) == pytest.approx(50.0, abs=0.1)
    assert float((some.x - u.squeeze(-1)).std()) == pytest.approx(0.5, rel=0.1)
