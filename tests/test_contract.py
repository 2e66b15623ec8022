r"""One contract for all guides and all likelihoods: each swaps for any other."""

import io
import warnings

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from pyro_dlgm.guides.flow import Flowing

from pyro_dlgm import SVI, evaluate, guides
from pyro_dlgm.objectives import ELBO

N, B = cases.N, cases.B
REFINED = {"amortized": guides.MeanField, "amortized_full_rank": guides.FullRank, "hybrid": guides.Chain}
REFINED |= {"semi_amortized": guides.MeanField, "flow": guides.FlowRows}


@pytest.fixture(params=cases.PAIRS, ids=lambda pair: "-".join(filter(None, pair)))
def case(request):
    name, likelihood = request.param
    return cases.make(name, likelihood and cases.conv(likelihood=likelihood))


@pytest.fixture(params=cases.PER_POINT)
def per_point(request):
    return cases.make(request.param)


def traces(model, guide, *args, **kwargs):
    r"""(model trace, guide trace), each sampled, not replayed, so that each plate shows its own indices."""
    made = [poutine.trace(program).get_trace(*args, **kwargs) for program in (model, guide)]
    for trace in made:
        trace.compute_log_prob()
    return made


def observed_tables(case):
    r"""A mask of pixels and one of whole points, each with both values in it."""
    pixels = torch.rand_like(case.x) < 0.6
    return {"pixels": pixels, "points": torch.tensor([True, False, True, True])}


# Sites, plates, scales


def test_the_guide_samples_the_latents_of_the_model(case):
    model, guide = traces(case.model, case.guide, *case.args)
    assert guide.nodes["t"]["value"].shape == model.nodes["t"]["value"].shape == (B, case.model.prior.latent_dim)
    assert guide.nodes["t"]["fn"].event_shape == model.nodes["t"]["fn"].event_shape
    assert not guide.nodes["t"]["is_observed"]


def test_calls_return_t_and_x(case):
    assert case.guide(*case.args).shape == (B, case.model.prior.latent_dim)
    assert case.model(*case.args).shape == case.x.shape


def test_no_site_is_left_to_the_prior(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = Trace_ELBO(max_plate_nesting=1).differentiable_loss(case.model, case.guide, *case.args)
    assert loss.isfinite()


def test_plates_of_both_sides_have_the_same_rows_with_size(case):
    model, guide = traces(case.model, case.guide, *case.args, size=N)
    assert torch.equal(model.nodes["data"]["value"], case.index)
    assert torch.equal(guide.nodes["data"]["value"], case.index)


def test_plates_of_both_sides_have_the_same_rows_without_size(case):
    guide = poutine.trace(case.guide).get_trace(*case.args)
    model = poutine.trace(poutine.replay(case.model, trace=guide)).get_trace(*case.args)
    assert torch.equal(model.nodes["data"]["value"], guide.nodes["data"]["value"])


@pytest.mark.parametrize(("size", "expected"), [(None, 1.0), (N, N / B)])
def test_scales_of_both_sides_agree(case, size, expected):
    model, guide = traces(case.model, case.guide, *case.args, size=size)
    scales = [model.nodes["t"]["scale"], model.nodes["x"]["scale"]]
    scales += [site["scale"] for name, site in guide.nodes.items() if name in ("t", "t_unconstrained")]
    assert scales == pytest.approx([expected] * len(scales), rel=1e-12)
    assert ("t_unconstrained" in guide.nodes) == (case.name == "auto_normal")


@pytest.mark.parametrize("size", [None, N])
def test_the_loss_is_the_sum_over_points_times_the_scale(size):
    case = cases.make("exact")
    loss = ELBO().loss(case.model, case.guide, *case.args, size=size)
    evidence = case.model.log_prob(case.x).sum().item()
    assert loss == pytest.approx(-evidence * (1 if size is None else N / B), rel=1e-5)


def test_t_and_x_names_are_those_of_the_model():
    model = cases.conv()
    model.latent, model.observed, model.plate = "z", "y", "rows"
    x = torch.rand(B, 1, 5, 7)
    made = [guides.MeanField(N, 3, latent="z", plate="rows"), guides.auto(model, "AutoNormal", N)]
    for guide in made:
        model_trace, guide_trace = traces(model, guide, x, cases.INDEX, size=N)
        assert {"z", "y", "rows"} <= set(model_trace.nodes)
        assert {"z", "rows"} <= set(guide_trace.nodes)


# Rows


def test_rows_must_be_named_even_if_the_lengths_agree(per_point):
    x = torch.rand(N, *per_point.x.shape[1:])
    for call in (per_point.guide, per_point.guide.posterior):
        with pytest.raises(ValueError, match="index"):
            call(x)
    with pytest.raises(ValueError, match="index"):
        per_point.guide(x, size=N)
    with pytest.raises(ValueError, match="index"):
        evaluate.log_joint(per_point.model, per_point.guide, x)


def test_another_number_of_points_is_refused(per_point):
    with pytest.raises(ValueError, match=f"size={N + 1}"):
        per_point.guide(*per_point.args, size=N + 1)
    with pytest.raises(ValueError, match=f"size={B}"):
        per_point.guide(*per_point.args, size=B)


@pytest.mark.parametrize("index", [[0, 1, 2, N], [-1, 0, 1, 2]])
def test_a_row_that_is_not_there_is_refused(per_point, index):
    with pytest.raises(ValueError, match="index goes from"):
        per_point.guide(per_point.x, torch.tensor(index))


def test_x_and_index_of_different_lengths_are_refused(case):
    for program in (case.model, case.guide):
        with pytest.raises(ValueError, match="one index for each point"):
            program(case.x, case.index[:-1])


@pytest.mark.parametrize("name", ["exact", "laplace", "amortized", "amortized_full_rank", "semi_amortized", "flow"])
def test_a_guide_of_x_asks_for_x(name):
    case = cases.make(name)
    with pytest.raises(ValueError, match="computes q from x and got none"):
        case.guide(None, case.index)


def centre(q):
    r"""The mean of q; of a flow, which has none in closed form, what its numbers z are added to."""
    return q.shift if isinstance(q, Flowing) else q.mean


def test_posterior_is_what_the_guide_samples(case):
    q = case.guide.posterior(*case.args)
    assert (q.batch_shape, q.event_shape) == ((B,), (case.model.prior.latent_dim,))
    if case.name == "hybrid":
        q = same_draw(case.guide.posterior, *case.args)
    case.guide.eval()
    if case.name != "auto_normal":
        site = same_draw(poutine.trace(case.guide).get_trace, *case.args).nodes["t"]
        assert torch.equal(centre(site["fn"]), centre(q))
    else:
        site = poutine.trace(case.guide).get_trace(*case.args).nodes["t_unconstrained"]
        # A standard deviation is the root of a square here.
        torch.testing.assert_close(site["fn"].base_dist.scale, q.stddev)
        torch.testing.assert_close(site["fn"].mean, q.mean)


def test_posterior_is_of_the_rows_asked_for(per_point):
    back = torch.arange(N - 1, -1, -1)
    forth = centre(per_point.guide.posterior(None, torch.arange(N)))
    # The mean of a chain is a sum over its states, and columns of a sum may be added up in other orders.
    torch.testing.assert_close(centre(per_point.guide.posterior(None, back)), forth.flip(0))
    assert len(forth.unique(dim=0)) == N or per_point.name.startswith("auto")


# Particles and masks


def test_particles_stand_on_the_left(case):
    with pyro.plate("particles", 3, dim=-2):
        model, guide = traces(case.model, case.guide, *case.args)
    assert guide.nodes["t"]["log_prob"].shape == model.nodes["x"]["log_prob"].shape == (3, B)


@pytest.mark.parametrize("mask", [None, "pixels", "points"])
@pytest.mark.parametrize("loss", [ELBO(3), Trace_ELBO(3, vectorize_particles=True)], ids=["ours", "pyro"])
def test_particles_and_masks_give_a_finite_loss_with_gradients(case, loss, mask):
    mask = mask and observed_tables(case)[mask]
    value = loss.differentiable_loss(case.model, case.guide, *case.args, mask=mask, size=N)
    assert value.shape == () and value.isfinite()
    value.backward()
    assert all(
        p.grad.isfinite().all() for p in (*case.model.parameters(), *case.guide.parameters()) if p.grad is not None
    )


def test_particles_are_averaged():
    case = cases.make("exact")
    one, three = (ELBO(k).loss(case.model, case.guide, *case.args) for k in (1, 3))
    assert three == pytest.approx(one, rel=1e-5)


def same_draw(program, *args, **kwargs):
    torch.manual_seed(3)
    return program(*args, **kwargs)


def test_a_mask_of_ones_changes_nothing(case):
    case.guide.eval()  # in training mode a chain moves at each call
    masks = None, torch.ones_like(case.x).bool()
    losses = [same_draw(ELBO().loss, case.model, case.guide, *case.args, mask=m) for m in masks]
    assert losses[0] == pytest.approx(losses[1], rel=cases.ROUNDING)


def test_a_mask_of_points_is_a_mask_of_all_their_pixels(case):
    points = observed_tables(case)["points"]
    pixels = points.reshape(-1, *[1] * (case.x.dim() - 1)).expand_as(case.x)
    case.guide.eval()
    losses = [same_draw(ELBO().loss, case.model, case.guide, *case.args, mask=m) for m in (points, pixels)]
    assert losses[0] == pytest.approx(losses[1], rel=cases.ROUNDING)


def test_a_missing_point_has_no_likelihood(case):
    mask = observed_tables(case)["points"]
    model, _ = traces(case.model, case.guide, *case.args, mask=mask)
    assert torch.equal(model.nodes["x"]["log_prob"] == 0, ~mask)
    assert (model.nodes["t"]["log_prob"] != 0).all()


@pytest.mark.parametrize("bad", ["dtype", "shape"])
def test_a_mask_of_another_kind_is_refused(case, bad):
    mask = torch.ones_like(case.x) if bad == "dtype" else torch.ones(B + 1).bool()
    with pytest.raises(ValueError, match=bad):
        ELBO().loss(case.model, case.guide, *case.args, mask=mask)


# Steps


def test_an_e_step_moves_q_only(case):
    svi = SVI(case.model, case.guide)
    w, q = cases.tensors(case.model), cases.tensors(case.guide)
    svi.e_step(*case.args, size=N)
    assert cases.same(w, cases.tensors(case.model))
    assert cases.unmoved(case.guide, q) == []


def test_a_joint_step_moves_both(case):
    svi = SVI(case.model, case.guide)
    w, q = cases.tensors(case.model), cases.tensors(case.guide)
    loss = svi.step(*case.args, size=N)
    assert loss.isfinite() and not loss.requires_grad
    assert cases.unmoved(case.model, w) == []
    assert cases.unmoved(case.guide, q) == []


@pytest.mark.parametrize("name", ["exact", "laplace"])
def test_a_guide_that_the_model_computes_has_nothing_to_move(name):
    case = cases.make(name)
    assert list(case.guide.parameters()) == []
    assert case.guide.state_dict() == {}


def test_steps_leave_no_gradient_behind(case):
    svi = SVI(case.model, case.guide)
    svi.e_step(*case.args), svi.step(*case.args)
    assert all(p.grad is None for m in (case.model, case.guide) for p in m.parameters())


def test_stock_svi_moves_both(case):
    svi = cases.stock(case.model, case.guide)
    w, q = cases.tensors(case.model), cases.tensors(case.guide)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = svi.step(*case.args)
    assert loss == loss and abs(loss) < float("inf")
    assert cases.unmoved(case.model, w) == []
    assert cases.unmoved(case.guide, q) == []


def test_stock_svi_and_ours_take_turns(case):
    ours, stock = SVI(case.model, case.guide), cases.stock(case.model, case.guide, ELBO())
    for step in (stock.step, ours.step, ours.e_step, stock.step, ours.step):
        w, q = cases.tensors(case.model), cases.tensors(case.guide)
        assert float(step(*case.args, size=N)) < float("inf")
        assert cases.unmoved(case.guide, q) == []
        assert cases.unmoved(case.model, w) == [] or step == ours.e_step


def test_clipping_bounds_the_global_norm_of_the_gradient(case):
    model = case.model.double()
    case.guide.double()
    before = cases.tensors(model)
    SVI(model, case.guide, [torch.optim.SGD(model.parameters(), lr=1.0)], clip_norm=1e-3).step(
        case.x.double(), case.index
    )
    moved = torch.cat([(a - b).flatten() for a, b in zip(cases.tensors(model), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-6)


# Saving


@pytest.mark.parametrize("trained_by", [None, "ours", "stock"])
def test_a_saved_guide_comes_back(case, trained_by):
    if trained_by is not None:
        (SVI if trained_by == "ours" else cases.stock)(case.model, case.guide).step(*case.args)
    file = io.BytesIO()
    torch.save(case.guide.state_dict(), file)
    file.seek(0)
    fresh = case.fresh_guide()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    draws = [same_draw(lambda q=guide: q.posterior(*case.args).sample((5,))) for guide in (case.guide, fresh)]
    assert torch.equal(*draws)
    samples = [same_draw(guide, *case.args) for guide in (case.guide, fresh)]
    assert torch.equal(*samples)


# Pyro's handlers


def test_a_scope_renames_the_sites_of_both_sides(case):
    model, guide = (scope(program, prefix="a") for program in (case.model, case.guide))
    model_trace, guide_trace = traces(model, guide, *case.args, size=N)
    assert {"a/t", "a/x"} <= set(model_trace.nodes) and "a/t" in guide_trace.nodes
    w, q = cases.tensors(case.model), cases.tensors(case.guide)
    cases.stock(model, guide).step(*case.args)
    assert cases.unmoved(case.model, w) == [] and cases.unmoved(case.guide, q) == []


def test_two_scopes_live_in_one_program(case):
    def twice(program):
        def both(x, index):
            for prefix in ("a", "b"):
                scope(program, prefix=prefix)(x, index)

        return both

    loss = cases.stock(twice(case.model), twice(case.guide)).evaluate_loss(*case.args)
    assert loss == loss and abs(loss) < float("inf")


def test_conditioning_on_x_is_observing_it(case):
    conditioned = poutine.condition(case.model, data={"x": case.x})
    case.guide.eval()
    losses = [
        same_draw(Trace_ELBO().loss, model, case.guide, *case.args)
        for model in (case.model, lambda x, index: conditioned(None, index))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=cases.ROUNDING)


def test_conditioning_on_t_observes_it(case):
    t = torch.randn(B, case.model.prior.latent_dim)
    trace = poutine.trace(poutine.condition(case.model, data={"t": t})).get_trace(*case.args)
    trace.compute_log_prob()
    total = trace.nodes["t"]["log_prob"] + trace.nodes["x"]["log_prob"]
    torch.testing.assert_close(total, case.model.log_joint(case.x, t))


def test_unconditioning_generates_x(case):
    guide = poutine.trace(case.guide).get_trace(*case.args)
    site = poutine.trace(poutine.uncondition(poutine.replay(case.model, trace=guide))).get_trace(*case.args).nodes["x"]
    assert not site["is_observed"]
    assert site["value"].shape == case.x.shape and not torch.equal(site["value"], case.x)


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_x_from_the_posterior(case, parallel):
    predictive = Predictive(poutine.uncondition(case.model), guide=case.guide, num_samples=5, parallel=parallel)
    x = predictive(*case.args)["x"]
    assert x.shape == (5, *case.x.shape)
    assert len(x.unique(dim=0)) == 5
    same = x == case.x
    # Levels agree by chance at single pixels, not at all of a point.
    assert not (same.flatten(2).all(-1) if isinstance(case.model.likelihood, cases.DISCRETE) else same).any()


def test_the_model_can_be_drawn(case):
    pytest.importorskip("graphviz", reason="pyro.render_model needs the Python package graphviz")
    drawn = pyro.render_model(case.model, model_args=case.args, render_distributions=True).source
    assert "t -> x" in drawn and "data" in drawn
    # All rows: with fewer, Pyro 1.9.2 cannot draw an autoguide.
    everything = torch.rand(N, *case.x.shape[1:]), torch.arange(N)
    assert "t [" in pyro.render_model(case.guide, model_args=everything).source


# Number types


def test_everything_follows_to_double(case):
    model, guide, x = case.model.double(), case.guide.double(), case.x.double()
    assert centre(guide.posterior(x, case.index)).dtype == torch.float64
    assert ELBO().differentiable_loss(model, guide, x, case.index, size=N).dtype == torch.float64
    assert SVI(model, guide).step(x, case.index).dtype == torch.float64
    assert cases.stock(model, guide).step(x, case.index) < float("inf")
    assert evaluate.log_joint(model, guide, x, case.index).dtype == torch.float64
    assert all(v.dtype == torch.float64 for v in cases.tensors(model, guide) if v.is_floating_point())


# Evaluation


def judges(case):
    yield "log_joint", lambda: evaluate.log_joint(case.model, case.guide, *case.args, 3)
    yield "infer", lambda: evaluate.infer(case.model, case.guide, case.x, window=2, max_steps=4, tol=1e9, seed=1)
    yield "reconstruct", lambda: evaluate.reconstruct(case.model, case.guide, *case.args, num_samples=2)
    if case.name in cases.DENSE:
        yield "log_weights", lambda: evaluate.log_weights(case.model, case.guide, *case.args, 3)
        yield "elbo", lambda: evaluate.elbo(case.model, case.guide, *case.args, 3, seed=1)
        yield "iwae", lambda: evaluate.iwae(case.model, case.guide, *case.args, 3)


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_evaluation_changes_nothing(case):
    case.model.eval()
    case.model.likelihood.train()
    SVI(case.model, case.guide).step(*case.args)
    for p in case.model.parameters():
        p.grad = torch.ones_like(p)
    modules = [*case.model.modules(), *case.guide.modules()]
    for name, judge in judges(case):
        held, flags = (
            [*cases.tensors(case.model, case.guide), *map(torch.clone, case.args)],
            [m.training for m in modules],
        )
        generator, validation = torch.get_rng_state(), pyro.settings.get()
        judge()
        assert cases.same(held, [*cases.tensors(case.model, case.guide), *case.args]), name
        assert all((p.grad == 1).all() for p in case.model.parameters()), name
        assert torch.equal(generator, torch.get_rng_state()), name
        assert flags == [m.training for m in modules], name
        assert validation == pyro.settings.get(), name


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_evaluation_leaves_no_parameter_in_the_store(case):
    SVI(case.model, case.guide).step(*case.args)
    for name, judge in judges(case):
        before = set(pyro.get_param_store().keys())
        judge()
        assert set(pyro.get_param_store().keys()) == before, name


@pytest.mark.parametrize("name", [n for n in cases.NAMES if n not in cases.DENSE])
def test_a_point_mass_has_no_bound(name):
    case = cases.make(name)
    for judge in (evaluate.log_weights, evaluate.elbo, evaluate.iwae):
        with pytest.raises(TypeError, match="no density"):
            judge(case.model, case.guide, *case.args)


@pytest.mark.parametrize("name", cases.DENSE)
def test_log_weights_are_a_table_of_samples_and_points(name):
    case = cases.make(name)
    table = evaluate.log_weights(case.model, case.guide, *case.args, 7)
    assert table.shape == (7, B) and not table.requires_grad
    for judge, expected in ((evaluate.elbo, table.mean(0)), (evaluate.iwae, table.exp().mean(0).log())):
        torch.testing.assert_close(judge(case.model, case.guide, *case.args, 7), expected, rtol=1e-5, atol=0)


# A refined guide


@pytest.mark.filterwarnings("ignore:.*have not converged")
def test_inference_gives_rows_for_the_points_at_hand(case):
    fitted = evaluate.infer(case.model, case.guide, case.x[:3], window=2, max_steps=4, tol=1e9)
    q = fitted.posterior(case.x[:3], torch.arange(3))
    assert q.batch_shape == (3,)
    if case.per_point:
        assert type(fitted) is type(case.guide) and fitted is not case.guide and fitted.num_points == 3
    elif case.name in ("exact", "laplace"):
        assert fitted is case.guide
    else:
        assert type(fitted) is REFINED[case.name]


# A DLGM inside a larger program


def test_a_model_lives_in_a_function_under_a_plate_of_its_own():
    model, size = cases.conv(), 20
    x = torch.rand(B, 1, 1, 5, 7)

    def program(x, index):
        with pyro.plate("cells", size, subsample=index, dim=-2):
            return model.datum(x)

    def guide(x, index):
        loc = pyro.param("loc", torch.zeros(size, 1, 3))
        with pyro.plate("cells", size, subsample=index, dim=-2):
            pyro.sample("t", dist.Normal(loc[index], 0.1).to_event(1))

    index = torch.arange(B)
    trace = poutine.trace(program).get_trace(x, index)
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (B, 1) and trace.nodes["x"]["scale"] == size / B
    before = cases.tensors(model)
    loss = cases.stock(program, guide).step(x, index)
    assert loss == loss
    assert cases.unmoved(model, before) == []
    loc = pyro.param("loc")
    assert (loc[:B] != 0).any() and (loc[B:] == 0).all()


def test_a_model_in_a_program_generates_under_its_plate():
    model = cases.conv()
    with pyro.plate("rows", 2, dim=-3), pyro.plate("columns", 3, dim=-1):
        assert model.datum().shape == (2, 1, 3, 1, 5, 7)
    assert model.datum().shape == (1, 5, 7)


class Bigger(PyroModule):
    r"""A program with a global latent and a DLGM as its child."""

    def __init__(self, model):
        super().__init__("bigger")
        self.images = model
        self.level = PyroParam(torch.tensor(0.3))

    def forward(self, x):
        shift = pyro.sample("shift", dist.Normal(self.level, 1.0))
        with pyro.plate("cells", len(x), dim=-1):
            return self.images.datum(x - shift)


@pytest.mark.parametrize("train", [cases.stock, lambda m, g: SVI(m, g)], ids=["stock", "ours"])
def test_a_model_lives_in_a_module_as_its_child(train):
    program, x = Bigger(cases.conv()), torch.rand(B, 1, 5, 7)
    guide = AutoNormal(program)
    guide(x)
    before, q = cases.tensors(program), cases.tensors(guide)
    assert float(train(program, guide).step(x)) < float("inf")
    assert cases.unmoved(program, before) == [] and cases.unmoved(guide, q) == []
    assert all(name.startswith(("bigger.", "AutoNormal.")) for name in pyro.get_param_store())


def test_a_guide_lives_in_a_module_as_its_child(case):
    class Pair(PyroModule):
        def __init__(self, guide):
            super().__init__("pair")
            self.local = guide

        def forward(self, x, index):
            return self.local(x, index)

    program = Pair(case.guide)
    q = cases.tensors(program)
    cases.stock(case.model, program).step(*case.args)
    assert cases.unmoved(program, q) == []
