r"""One test for each thing that Pyro does and one would not expect; named after what it guards."""

import copy
import inspect
import subprocess
import sys
import warnings

import cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro_dlgm.guides.rows import Rows, sparse_gradients
from torch import nn

from pyro_dlgm import DLGM, PPCA, SVI, distributions, evaluate, fit, guides, likelihoods, nets, priors
from pyro_dlgm.objectives import ELBO, Tempered
from pyro_dlgm.optim.row_adam import RowAdam

N, B = cases.N, cases.B
TRAINERS = {"stock": cases.stock, "ours": SVI}


@pytest.fixture(params=cases.NAMES)
def case(request):
    return cases.make(request.param)


@pytest.fixture(params=TRAINERS)
def trainer(request):
    return TRAINERS[request.param]


def same_draw(program, *args, **kwargs):
    torch.manual_seed(3)
    return program(*args, **kwargs)


def weights(*modules) -> list[torch.Tensor]:
    r"""Copies of all parameters, without buffers, in which the states of a chain are."""
    return [p.detach().clone() for module in modules for p in module.parameters()]


def kl_to_prior(case, mask=None) -> float:
    r"""Σ_i KL(q_i ‖ p) by torch, in nats."""
    q = case.guide.posterior(*case.args, mask)
    L = q.scale_tril if hasattr(q, "scale_tril") else q.stddev.diag_embed()
    prior = torch.distributions.MultivariateNormal(torch.zeros(cases.D), torch.eye(cases.D))
    return (
        torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(q.mean, scale_tril=L), prior)
        .sum()
        .item()
    )


# 2, 3: autoguides


@pytest.mark.parametrize("name", cases.PER_POINT)
@pytest.mark.parametrize("loss", [ELBO(), Trace_ELBO()], ids=["ours", "pyro"])
def test_only_rows_of_the_batch_get_gradients(name, loss):
    case = cases.make(name)
    loss.loss_and_grads(case.model, case.guide, *case.args, size=N)
    out = torch.ones(N).bool().index_fill(0, case.index, False)
    shared = [name for name, _ in case.guide.named_parameters() if name.startswith("family.")]  # a flow's networks
    for table in (p for name, p in case.guide.named_parameters() if name not in shared):
        assert len(table) == N
        assert (table.grad[out] == 0).all() and (table.grad[~out] != 0).all()


@pytest.mark.parametrize(
    "name",
    [
        "AutoDiagonalNormal",
        "AutoMultivariateNormal",
        "AutoLowRankMultivariateNormal",
        "AutoIAFNormal",
        "AutoGaussian",
        "AutoNormalMessenger",
        "AutoNothing",
    ],
)
def test_autoguides_that_mix_up_rows_are_refused(name):
    with pytest.raises(ValueError, match=name):
        guides.auto(cases.conv(), name, N)


# 4: the closed form


@pytest.mark.parametrize("name", cases.GAUSSIAN)
def test_closed_form_kl_has_no_variance(name):
    case = cases.make(name)
    nothing = torch.zeros(B).bool()  # all masked: the loss is KL(q ‖ p)
    closed, sampled = (
        [ELBO(analytic_kl=analytic).loss(case.model, case.guide, *case.args, mask=nothing) for _ in range(4)]
        for analytic in (True, False)
    )
    assert closed == [closed[0]] * 4
    assert closed[0] == pytest.approx(kl_to_prior(case, nothing), rel=1e-5)
    assert len(set(sampled)) == 4


@pytest.mark.parametrize("name", ["mean_field", "amortized"])
def test_pyros_mean_field_objective_knows_the_closed_form(name):
    case = cases.make(name)
    nothing = torch.zeros(B).bool()
    losses = [loss.loss(case.model, case.guide, *case.args, mask=nothing) for loss in (TraceMeanField_ELBO(), ELBO())]
    assert losses[0] == pytest.approx(losses[1], rel=cases.ROUNDING)


@pytest.mark.parametrize("name", cases.GAUSSIAN)
def test_closed_form_and_samples_agree_on_average(name):
    case = cases.make(name)
    made = [ELBO(20000, analytic_kl=analytic) for analytic in (True, False)]
    nothing = torch.zeros(B).bool()
    closed, sampled = (loss.loss(case.model, case.guide, *case.args, mask=nothing) for loss in made)
    assert closed == pytest.approx(sampled, rel=0.02)


# 5: rows


def test_rows_out_of_the_batch_do_not_move():
    case = cases.make("mean_field")
    ours, dense = SVI(case.model, case.guide), cases.stock(case.model, case.guide)
    other = torch.tensor([1, 3, 4, 5])
    for svi, moves in ((ours, False), (dense, True)):
        svi.step(*case.args, size=N)
        before = case.guide.rows.weight.detach().clone()
        svi.step(case.x, other, size=N)
        changed = (case.guide.rows.weight != before).any(1)
        assert changed[other].all()
        assert changed[case.index].any() == moves
        assert not changed[[6, 8]].any()


def test_bias_correction_counts_the_rows_own_visits():
    rows = Rows(torch.zeros(2, 3))
    optimizer = RowAdam(rows.parameters(), lr=0.1)

    def visit(row, g):
        optimizer.zero_grad()
        with sparse_gradients():
            (g * rows(torch.tensor([row]))).sum().backward()
        optimizer.step()

    for _ in range(50):
        visit(0, 1.0)
    for k, g in enumerate((5.0, -2.0, 3.0), 1):
        visit(1, g)
        alone = nn.Parameter(torch.zeros(3))
        adam = torch.optim.Adam([alone], lr=0.1)
        for past in (5.0, -2.0, 3.0)[:k]:
            alone.grad = torch.full((3,), past)
            adam.step()
        torch.testing.assert_close(rows.weight[1].detach(), alone.detach(), rtol=1e-5, atol=1e-7)


# 6: the global parameter store


@pytest.fixture(params=cases.NAMES)
def twins(request):
    return [cases.make(request.param) for _ in range(2)]


def test_two_models_of_one_class_both_train(twins, trainer):
    svis = [trainer(case.model, case.guide) for case in twins]
    for svi, case, other in zip(svis, twins, twins[::-1], strict=True):
        w, q, still = cases.tensors(case.model), cases.tensors(case.guide), cases.tensors(other.model, other.guide)
        svi.step(*case.args)
        assert cases.unmoved(case.model, w) == [] and cases.unmoved(case.guide, q) == []
        assert cases.same(still, cases.tensors(other.model, other.guide))


def test_no_two_programs_share_a_name(twins):
    names = [m._pyro_name for case in twins for m in (case.model, case.guide)]
    assert len(set(names)) == 4 and all(names)
    for case in twins:
        cases.stock(case.model, case.guide).step(*case.args)
    held = {id(p) for case in twins for m in (case.model, case.guide) for p in m.parameters()}
    assert {id(p) for p in pyro.get_param_store()._params.values()} == held


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
@pytest.mark.parametrize("freeze", ["model", "guide"])
def test_what_is_frozen_stays_frozen(case, trainer, freeze):
    frozen, other = (case.model, case.guide) if freeze == "model" else (case.guide, case.model)
    frozen.requires_grad_(False)
    before, moving = weights(frozen), cases.tensors(other)
    svi = trainer(case.model, case.guide)
    for _ in range(2):
        svi.step(*case.args)
    assert cases.same(before, weights(frozen))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert cases.unmoved(other, moving) == []


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
def test_frozen_model_stays_frozen(case):
    case.model.requires_grad_(False)
    before, q = cases.tensors(case.model), cases.tensors(case.guide)
    for svi in (SVI(case.model, case.guide), cases.stock(case.model, case.guide), SVI(case.model, case.guide)):
        svi.step(*case.args)
    assert cases.same(before, cases.tensors(case.model))
    assert not any(p.requires_grad for p in case.model.parameters())
    assert cases.unmoved(case.guide, q) == []


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
@pytest.mark.parametrize("name", [name for name in cases.NAMES[1:] if name not in ("chain", "laplace")])
def test_an_e_step_leaves_what_is_frozen_in_the_guide(name):
    case = cases.make(name)
    first, *rest = case.guide.parameters()
    first.requires_grad_(False)
    before = cases.tensors(case.guide)
    SVI(case.model, case.guide).e_step(*case.args)
    assert len(cases.unmoved(case.guide, before)) == 1
    assert all(p.requires_grad for p in rest)


@pytest.mark.filterwarnings("ignore:.*was not registered in the param store because requires_grad=False")
def test_an_e_step_on_a_frozen_guide_does_nothing(case):
    case.guide.requires_grad_(False).eval()  # in training mode a chain moves without gradients
    before = cases.tensors(case.model, case.guide)
    assert SVI(case.model, case.guide).e_step(*case.args).isfinite()
    assert cases.same(before, cases.tensors(case.model, case.guide))


IMPORT = """
import random, numpy, torch, pyro
def state():
    drawn = torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()
    return (*drawn, torch.initial_seed(), torch.get_default_dtype(), dict(pyro.settings.get()),
            list(pyro.get_param_store()), torch.get_num_threads(), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled())
before = state()
import pyro_dlgm
assert state() == before, "import pyro_dlgm changed a global state"
"""


def test_import_leaves_global_state_alone():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", cases.NAMES)
def test_construction_leaves_global_state_alone(name):
    pyro.param("mine", torch.tensor(1.0))

    def state():
        held = dict(pyro.get_param_store().items())
        return torch.get_default_dtype(), pyro.settings.get(), torch.initial_seed(), held

    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = state()
        cases.make(name)
        assert state() == before
        drawn.append(torch.rand(()).item())
    assert drawn[0] != drawn[1]  # nobody seeded


# 7: Predictive


@pytest.mark.parametrize("name", ["amortized", "amortized_full_rank"])
def test_predictive_returns_the_data_unless_x_is_unconditioned(name):
    case = cases.make(name)
    assert (Predictive(case.model, guide=case.guide, num_samples=2)(*case.args)["x"] == case.x).all()
    x = Predictive(poutine.uncondition(case.model), guide=case.guide, num_samples=2)(*case.args)["x"]
    assert not (x == case.x).any()


@pytest.mark.parametrize("name", [name for name in cases.NAMES if name != "hybrid"])  # whose q is drawn at each call
def test_reconstructions_are_no_copies_of_the_data(name):
    case = cases.make(name)
    torch.manual_seed(1)
    found = evaluate.reconstruct(case.model, case.guide, *case.args)
    centre = distributions.mean(case.guide.posterior(*case.args))  # of a flow: of draws
    torch.testing.assert_close(found, case.model.likelihood.net(centre), rtol=1e-5, atol=1e-6)
    mask = torch.rand_like(case.x) < 0.5
    filled = evaluate.impute(case.model, case.guide, case.x, case.index, mask=mask)
    assert torch.equal(filled[mask], case.x[mask]) and not (filled[~mask] == case.x[~mask]).any()


# 8: β


@pytest.mark.parametrize("name", cases.GAUSSIAN)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_beta_scales_both_sides(name, beta):
    case = cases.make(name)
    full = same_draw(ELBO().loss, case.model, case.guide, *case.args)
    expected = pytest.approx(full - (1 - beta) * kl_to_prior(case), rel=1e-5)
    assert same_draw(ELBO(beta=beta).loss, case.model, case.guide, *case.args) == expected
    tempered = Tempered(beta)(case.model), Tempered(beta)(case.guide)
    assert same_draw(ELBO().loss, *tempered, *case.args) == expected


@pytest.mark.parametrize("name", cases.NAMES)
def test_beta_scales_the_sampled_term_of_both_sides(name):
    case = cases.make(name)
    case.guide.eval()  # in training mode a chain moves at each call
    losses = [
        same_draw(ELBO(beta=b, analytic_kl=False).loss, case.model, case.guide, *case.args) for b in (0.0, 0.3, 1.0)
    ]
    assert losses[1] == pytest.approx(0.7 * losses[0] + 0.3 * losses[2], rel=1e-5)
    tempered = Tempered(0.3)(case.model), Tempered(0.3)(case.guide)
    assert same_draw(Trace_ELBO().loss, *tempered, *case.args) == pytest.approx(losses[1], rel=1e-5)


# 9: copies


def test_deep_copy_trains_apart_from_its_original(case, trainer):
    trainer(case.model, case.guide).step(*case.args)
    original, copied = (case.model, case.guide), copy.deepcopy((case.model, case.guide))
    assert len({program._pyro_name for program in (*original, *copied)}) == 4
    for trained, other in ((copied, original), (original, copied)):
        before, still = [cases.tensors(program) for program in trained], cases.tensors(*other)
        trainer(*trained).step(*case.args)
        assert [cases.unmoved(*moved) for moved in zip(trained, before, strict=True)] == [[], []]
        assert cases.same(still, cases.tensors(*other))


def test_a_copied_guide_is_the_same_q_and_shares_its_model(case):
    guide = copy.deepcopy(case.guide)
    assert torch.equal(*(same_draw(lambda g=g: g.posterior(*case.args).sample()) for g in (guide, case.guide)))
    assert torch.equal(*(same_draw(g, *case.args) for g in (guide, case.guide)))
    if guide._model is not None:
        assert guide._model[0] is case.model


def test_a_reference_to_the_model_adds_no_parameters(case):
    assert {id(p) for p in case.model.parameters()}.isdisjoint({id(p) for p in case.guide.parameters()})
    assert not any(m is case.model for m in case.guide.modules())


# 10: what trains and what does not


def test_steps_without_gradients_do_not_train(case):
    svi = SVI(case.model, case.guide)
    svi.step(*case.args)
    before = weights(case.model, case.guide)
    with torch.no_grad():
        svi.step(*case.args), svi.e_step(*case.args)
    svi.evaluate_loss(*case.args)
    assert cases.same(before, weights(case.model, case.guide))


def test_evaluation_runs_in_eval_mode():
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(35, 12))
    guide, model, x = guides.Amortized(encoder, 3), cases.conv(), torch.rand(B, 1, 5, 7)
    table = evaluate.log_weights(model, guide, x, None, 3, seed=1)
    assert guide.training and encoder[1].training
    guide.eval()
    assert torch.equal(table, evaluate.log_weights(model, guide, x, None, 3, seed=1))


# 1: per-point weights


def test_log_weights_are_per_point_with_extra_sites():
    model, x = cases.conv(), torch.rand(B, 1, 5, 7)

    def program(x, index=None, mask=None):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(level, 1.0), obs=torch.tensor(0.5))
        return model(x, index, mask=mask)

    guide = AutoNormal(program)
    guide(x)
    for judge in (evaluate.log_weights, evaluate.elbo, evaluate.iwae, evaluate.log_joint):
        with pytest.raises(ValueError, match="'y' has no log-density for each point"):
            judge(program, guide, x, None, 3)


@pytest.mark.parametrize(("shape", "batch"), [((), 1), ((B,), B)])
def test_a_latent_out_of_the_plate_that_the_guide_does_not_sample_is_refused(shape, batch):
    model, x = cases.conv(), torch.rand(batch, 1, 5, 7)

    def program(x, index=None, mask=None):
        pyro.sample("level", dist.Normal(torch.zeros(shape), 1.0))
        return model(x, index, mask=mask)

    with pytest.raises(ValueError, match="expected 'level' as well"):
        evaluate.log_weights(program, plain(torch.zeros(batch, 3), torch.tensor(1.0)), x, None, 3)


def test_a_factor_out_of_the_plate_is_refused():
    model, x = cases.conv(), torch.rand(B, 1, 5, 7)

    def program(x, index=None, mask=None):
        pyro.factor("extra", torch.tensor(1.0))
        return model(x, index, mask=mask)

    guide = AutoNormal(model)
    guide(x)
    with pytest.raises(ValueError, match="extra"):
        evaluate.log_weights(program, guide, x, None, 3)


def plain(loc, scale):
    r"""A guide as a plain function."""

    def guide(x, index=None, *, mask=None, size=None):
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("t", dist.Normal(loc, scale).to_event(1))

    return guide


def test_a_deterministic_site_out_of_the_plate_changes_no_weight():
    model, x = cases.conv(), torch.rand(B, 1, 5, 7)

    def program(x, index=None, *, mask=None):
        pyro.deterministic("sigma", model.likelihood.scale)
        return model(x, index, mask=mask)

    guide = plain(torch.randn(B, 3), torch.tensor(0.3))
    tables = [evaluate.log_weights(p, guide, x, None, 5, seed=1) for p in (model, program)]
    torch.testing.assert_close(*tables)


@pytest.mark.parametrize("mask", [None, "pixels", "points"])
def test_traced_weights_are_those_of_the_posterior(mask):
    case = cases.make("mean_field")
    mask = {"pixels": torch.rand_like(case.x) < 0.5, "points": torch.tensor([True, False, True, True])}.get(mask)
    q = case.guide.posterior(*case.args)
    tables = [
        evaluate.log_weights(case.model, guide, *case.args, 6, mask=mask, seed=1)
        for guide in (plain(q.mean, q.stddev), case.guide)
    ]
    torch.testing.assert_close(*tables, rtol=1e-5, atol=1e-5)


def test_auxiliary_sites_of_an_autoguide_count():
    model, x = cases.conv(), torch.rand(B, 1, 5, 7)
    guide = AutoNormal(model, init_scale=0.2)
    guide(x)
    q = plain(guide.locs.t.detach(), guide.scales.t.detach())
    tables = [evaluate.log_weights(model, g, x, None, 6, seed=1) for g in (guide, q)]
    torch.testing.assert_close(*tables, rtol=1e-5, atol=1e-5)


# 12: masks

PAIRS = [("exact", None)] + [(name, kind) for name in cases.NAMES[1:] for kind in ("fixed", "diagonal", "bernoulli")]
PAIRS += [
    (f"{name}_sees_mask", kind) for name in ("amortized", "amortized_full_rank") for kind in ("fixed", "bernoulli")
]


def pair(name: str, kind: str | None):
    if not name.endswith("_sees_mask"):
        return cases.make(name, None if kind is None else cases.conv(likelihood=kind))
    name = name.removesuffix("_sees_mask")
    case = cases.make(name, cases.conv(likelihood=kind))
    family = "full_rank" if name.endswith("full_rank") else "mean_field"
    case.guide = cases.amortized(case.model, family, mask_input=True)
    return case


@pytest.mark.parametrize("objective", [ELBO(), Trace_ELBO()], ids=["ours", "pyro"])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_masked_pixels_change_neither_loss_nor_gradients(name, kind, objective):
    case = pair(name, kind)
    before = copy.deepcopy(case.guide.state_dict())
    for mask in (torch.rand_like(case.x) < 0.5, torch.tensor([True, False, True, True])):
        missing = ~mask.reshape(*mask.shape, *[1] * (case.x.dim() - mask.dim())).expand_as(case.x)
        outcomes = []
        for value in (0.0, float("nan"), float("inf"), -float("inf"), 1e30, -7.0, 0.5):
            x = case.x.masked_fill(missing, value)
            case.guide.load_state_dict(before)  # chains move
            parameters = [*case.model.parameters(), *case.guide.parameters()]
            for p in parameters:
                p.grad = None
            loss = same_draw(objective.loss_and_grads, case.model, case.guide, x, case.index, mask=mask, size=N)
            outcomes.append([torch.as_tensor(loss), *(p.grad.clone() for p in parameters)])
        assert all(v.isfinite().all() for v in outcomes[0])
        assert all(cases.same(outcomes[0], outcome) for outcome in outcomes[1:])


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_masked_pixels_change_no_evaluation(name, kind):
    case = pair(name, kind)
    mask = torch.rand_like(case.x) < 0.5
    tables = [
        evaluate.log_joint(case.model, case.guide, case.x.masked_fill(~mask, value), case.index, 3, mask=mask, seed=1)
        for value in (0.0, float("nan"), float("inf"), 1e30)
    ]
    assert tables[0].isfinite().all() and all(torch.equal(tables[0], table) for table in tables[1:])


@pytest.mark.filterwarnings("ignore:.*have not converged")
@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if pair[0] != "hybrid"])  # whose E-step is a chain's
def test_masked_pixels_change_no_inference(name, kind):
    case = pair(name, kind)
    mask = torch.rand_like(case.x) < 0.5
    draws = []
    for value in (0.0, float("nan"), 1e30):
        x = case.x.masked_fill(~mask, value)
        q = evaluate.infer(case.model, case.guide, x, mask=mask, window=3, max_steps=6, seed=1)
        draws.append(same_draw(q.posterior(x, torch.arange(B), mask).sample))
    assert draws[0].isfinite().all() and all(torch.equal(draws[0], draw) for draw in draws[1:])


@pytest.mark.parametrize("name", ["mean_field", "amortized"])
def test_masked_pixels_change_no_fit(name):
    outcomes = []
    for value in (0.0, float("nan"), 1e30):
        torch.manual_seed(1)
        case, x = cases.make(name), torch.rand(N, 1, 5, 7)
        mask = torch.rand_like(x) < 0.5
        fit(case.model, case.guide, x.masked_fill(~mask, value), mask=mask, epochs=2, batch_size=3, e_steps=2, seed=2)
        outcomes.append(cases.tensors(case.model, case.guide))
    assert all(cases.same(outcomes[0], outcome) for outcome in outcomes[1:])


def test_the_encoder_sees_the_mask_only_if_asked():
    for sees in (False, True):
        guide = cases.amortized(cases.conv(), mask_input=sees)
        x = torch.rand(B, 1, 5, 7)
        mask = torch.rand_like(x) < 0.5
        zeroed = torch.where(mask, x, 0.0)
        agree = torch.equal(guide.posterior(x, None, mask).mean, guide.posterior(zeroed).mean)
        assert agree != sees


# 13: leading axes are in test_nets and in the contract

# 14: what is left out, what is remembered


def test_no_objective_is_a_default_argument():
    for function in (SVI.__init__, fit):
        defaults = [p.default for p in inspect.signature(function).parameters.values()]
        assert not any(isinstance(d, pyro.infer.ELBO) for d in defaults)
    case = cases.make("mean_field")
    assert SVI(case.model, case.guide).objective is not SVI(case.model, case.guide).objective


@pytest.mark.parametrize("loss", [ELBO(), ELBO(2)], ids=["one", "two"])
def test_one_objective_serves_several_pairs(loss):
    for name in cases.NAMES:
        case = cases.make(name)
        assert loss.loss(case.model, case.guide, *case.args) == pytest.approx(0, abs=1e6)


def test_every_site_of_the_model_is_in_the_guide(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SVI(case.model, case.guide).step(*case.args)
        cases.stock(case.model, case.guide).step(*case.args)


def test_samples_without_gradients_are_refused():
    model = cases.conv()

    def guide(x, index=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("t", NonreparameterizedNormal(torch.zeros(B, 3), torch.tensor(1.0)).to_event(1))

    x = torch.rand(B, 1, 5, 7)
    with pytest.raises(NotImplementedError, match="'t'"):
        ELBO().loss(model, guide, x)
    assert Trace_ELBO().loss(model, guide, x) > 0


# 16: mistakes seen elsewhere


@pytest.mark.parametrize("name", cases.DENSE)
def test_the_loss_is_positive_where_the_bound_is_negative(name):
    case = cases.make(name)
    x = case.x + 3  # far from what the model says
    bound = evaluate.elbo(case.model, case.guide, x, case.index, 2000).sum().item()
    assert bound < 0
    assert ELBO(2000).loss(case.model, case.guide, x, case.index) == pytest.approx(-bound, rel=0.02)


def test_a_ragged_last_batch_counts_by_its_points():
    model = cases.ppca()
    x = torch.cat([torch.randn(8, 6), 9 + torch.randn(2, 6)])
    expected = model.log_prob(x).mean().item()
    result = fit(model, guides.Exact(model), x, epochs=1, batch_size=8, lr=1e-30, seed=0)
    assert result.history[0]["elbo"] == pytest.approx(expected, rel=1e-5)
    result = fit(model, guides.Exact(model), x, epochs=3, batch_size=4, lr=1e-30, objective=Trace_ELBO(), seed=0)
    assert [r["elbo"] for r in result.history] == pytest.approx([expected] * 3, rel=1e-5)


@pytest.mark.parametrize("num_samples", [1, 3, 90_001])
def test_as_many_samples_as_asked_for(num_samples):
    model = PPCA(1, 40)
    x = torch.randn(2, 40)
    guide = guides.Amortized(nets.Linear(40, 4), 1)
    table = evaluate.log_weights(model, guide, x, None, num_samples)
    assert table.shape == (num_samples, 2)
    assert len(table[:, 0].double().unique()) > 0.9 * num_samples


def test_the_exact_guide_has_the_evidence_for_its_log_weight():
    case = cases.make("exact")
    model, guide, x = case.model.double(), case.guide, case.x.double()
    mask = torch.rand_like(x) < 0.6
    for m in (None, mask):
        table = evaluate.log_weights(model, guide, x, None, 4, mask=m)
        torch.testing.assert_close(table, model.log_prob(x, m).expand(4, -1), rtol=1e-10, atol=1e-10)


def test_the_exact_guide_climbs_the_evidence_without_noise():
    case = cases.make("exact")
    model, guide, x = case.model.double(), case.guide, case.x.double()
    expected = torch.autograd.grad(-model.log_prob(x).sum(), list(model.parameters()))
    for objective in (Trace_ELBO(), ELBO(), ELBO(analytic_kl=False)):
        found = torch.autograd.grad(objective.differentiable_loss(model, guide, x), list(model.parameters()))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_grey_pixels_are_no_bits():
    model = cases.conv(likelihood="bernoulli")
    grey = torch.full((B, 1, 5, 7), 0.5)
    with pytest.raises(ValueError, match="binarize"):
        model(grey)
    with pytest.raises(ValueError, match="binarize"):
        evaluate.log_joint(model, cases.amortized(model), grey)


def test_values_that_were_refused_once_are_refused_again():
    model = cases.conv(likelihood="bernoulli")
    svi, grey = SVI(model, cases.amortized(model)), torch.full((B, 1, 5, 7), 0.5)
    for _ in range(2):
        with pytest.raises(ValueError, match="binarize"):
            svi.step(grey)


def test_nan_pixels_are_named_before_the_loss_is():
    model = cases.conv()
    with pytest.raises(ValueError, match="NaN"):
        model(torch.full((B, 1, 5, 7), float("nan")))


# 17: repeats


@pytest.mark.parametrize("sparse", [False, True])
def test_same_row_twice_in_a_batch_is_reproducible(sparse):
    torch.set_num_threads(2)
    rows = Rows(torch.randn(50, 64))
    index, g = torch.randint(50, (20_000,)), torch.randn(20_000, 64)

    def gradient():
        rows.weight.grad = None
        if sparse:
            with sparse_gradients():
                rows(index).backward(g)
            return rows.weight.grad.coalesce().to_dense()
        rows(index).backward(g)
        return rows.weight.grad

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(10))
    expected = torch.zeros(50, 64).double().index_add_(0, index, g.double())
    torch.testing.assert_close(first.double(), expected, rtol=1e-3, atol=1e-3)


def test_same_row_twice_in_a_batch_adds_up():
    case = cases.make("mean_field")
    twice = case.index[[0, 0, 1, 1]]
    case.x[1] = case.x[0]
    before = case.guide.rows.weight.detach().clone()
    SVI(case.model, case.guide).step(case.x, twice)
    changed = (case.guide.rows.weight != before).any(1)
    assert set(changed.nonzero().flatten().tolist()) == set(twice.tolist())


def test_a_fit_is_reproducible_under_its_seed():
    def run():
        torch.manual_seed(5)
        model, guide = cases.conv(), guides.FullRank(N, cases.D)
        history = fit(model, guide, torch.rand(N, 1, 5, 7), epochs=2, batch_size=3, e_steps=2, seed=7).history
        return cases.tensors(model, guide), [r["elbo"] for r in history]

    first, second = run(), run()
    assert first[1] == second[1] and cases.same(first[0], second[0])


def test_a_seeded_fit_leaves_the_generator_alone():
    model, x = cases.conv(), torch.rand(N, 1, 5, 7)
    guide = guides.MeanField(N, 3)
    before = torch.get_rng_state()
    fit(model, guide, x, steps=2, seed=7)
    assert torch.equal(before, torch.get_rng_state())


# 18: a plate of N without the size


@pytest.mark.parametrize("name", ["AutoNormal", "AutoDelta"])
def test_an_autoguide_made_for_all_points_has_no_scale_of_its_own(name):
    model = cases.conv()
    guide, x = guides.auto(model, name, 40), torch.rand(B, 1, 5, 7)
    trace = poutine.trace(guide).get_trace(x, cases.INDEX)
    scales = [site["scale"] for key, site in trace.nodes.items() if key in ("t", "t_unconstrained")]
    assert scales == pytest.approx([1.0] * len(scales)) and scales


def test_the_likelihood_may_be_any_module():
    class Poisson(likelihoods.Likelihood):
        def __init__(self):
            super().__init__()
            self.net = nets.Linear(2, 5)

        def pixels(self, t):
            return dist.Poisson(self.net(t).exp())

    model, guide = DLGM(priors.StandardNormal(2), Poisson()), guides.MeanField(B, 2)
    before = cases.tensors(model)
    SVI(model, guide).step(torch.ones(B, 5), torch.arange(B))
    assert cases.unmoved(model, before) == []
