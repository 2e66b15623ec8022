r"""Networks in bfloat16: what is rounded and what is not, against float64 from the networks' outputs."""

import contextlib
import copy
import shutil
import warnings

import cases
import pytest
import torch
from click.testing import CliRunner
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from pyro_dlgm import DLGM, PPCA, SVI, evaluate, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.cli.main import main
from pyro_dlgm.nets.bfloat16 import networks
from pyro_dlgm.optim.compiled import compared
from pyro_dlgm.optim.compiled.noise import NotCaptured
from pyro_dlgm.runs.files import RunError

N, P, D = 40, 60, 2
EXACT = 2e-6  # relative: float32 sums of a few hundred terms


class Outputs:
    r"""Records what modules return, before any other hook widens it."""

    def __init__(self, *modules):
        self.found = [[] for _ in modules]
        for module, found in zip(modules, self.found, strict=True):
            module.register_forward_hook(lambda m, args, y, found=found: found.append(y.detach()))


def pair(likelihood=likelihoods.Bernoulli, rows: bool = False):
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(D), likelihood(nets.MLP(D, P, hidden=(8,))))
    guide = guides.MeanField(N, D) if rows else guides.Amortized(nets.MLP(P, 8, hidden=(16,)), D)
    return model, guide


def binary() -> torch.Tensor:
    return torch.rand(N, P, generator=torch.Generator().manual_seed(1)).round()


def test_networks_are_the_outermost_ones():
    model, guide = pair()
    assert networks(model) == [model.likelihood.net]
    assert networks(guide) == [guide.encoder, guide.head]
    assert networks(guides.MeanField(3, 2)) == []

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

    own = Own()
    assert networks(own) == [own.first, own.second] and len(networks(nn.Sequential(own))) == 1
    bayesian = nn.Sequential(nn.Linear(2, 3), PyroModule[nn.Linear](3, 2))
    assert networks(bayesian, PyroModule) == [bayesian[0]] and networks(nn.Sequential(nn.ELU())) == []


@pytest.mark.parametrize("kind", ["bernoulli", "fixed"])
def test_densities_are_float32_functions_of_outputs_in_bfloat16(kind):
    model, guide = pair(cases.LIKELIHOODS[kind])
    x = binary()
    seen = Outputs(model.likelihood.net, guide.head)
    svi = SVI(model, guide, precision="bf16")
    torch.manual_seed(3)
    loss = svi.step(x)
    (output,), (raw,) = (found for found in seen.found)
    assert output.dtype == raw.dtype == torch.bfloat16 and loss.dtype == torch.float32
    output, (m, log_s) = output.double(), raw.double().chunk(2, -1)
    p = Bernoulli(logits=output) if kind == "bernoulli" else Normal(output, model.likelihood.floor + 1.0 - 1e-3)
    kl = kl_divergence(Normal(m, log_s.exp()), Normal(torch.zeros(D).double(), 1.0)).sum()
    # Before the step: Adam has moved σ meanwhile, from its start at 1.
    assert float(loss) == pytest.approx(float(kl - p.log_prob(x.double()).sum()), rel=EXACT)


def test_the_same_formula_in_bfloat16_would_be_seen():
    """A density of outputs that stay in bfloat16 is off by far more than the test above allows."""
    logits, x = (3 * torch.randn(N, P, generator=torch.Generator().manual_seed(2))).bfloat16(), binary()
    truth = Bernoulli(logits=logits.double()).log_prob(x.double()).sum()
    rounded = Bernoulli(logits=logits).log_prob(x.bfloat16()).float().sum()
    assert abs(float(rounded / truth) - 1) > 20 * EXACT


@pytest.mark.parametrize(("rows", "compile"), [(False, False), (True, False), (True, "eager")])
def test_parameters_moments_and_gradients_stay_float32_and_networks_are_rounded(rows, compile):
    found = []
    for precision in (None, "bf16"):
        model, guide = pair(rows=rows)
        svi = SVI(model, guide, check_every=1, clip_norm=1.0, compile=compile, precision=precision)
        torch.manual_seed(4)
        values = [float(svi.step(binary(), torch.arange(N), factor=1 / N)) for _ in range(4)]
        tensors = [v for o in svi.optimizers for state in o.state.values() for v in state.values()]
        held = [*model.parameters(), *guide.parameters(), *tensors, svi.gradient_norm]
        assert {v.dtype for v in held} == {torch.float32}
        assert not any(m._forward_hooks or m._forward_pre_hooks for p in (model, guide) for m in p.modules())
        found.append(values)
    assert found[0] != found[1] and found[1] == pytest.approx(found[0], rel=1e-2)
    if compile:
        assert None not in svi.compiler.steps.values()


def test_compiled_and_eager_steps_have_the_same_numbers(monkeypatch):
    monkeypatch.setattr(compared, "AGREE_BF16", 1e-6)  # the eager step that it is compared with is rounded, too
    found = []
    for compile in (False, "eager"):
        svi = SVI(*pair(), check_every=1, compile=compile, precision="bf16")
        torch.manual_seed(4)
        found.append([float(svi.step(binary(), factor=1 / N)) for _ in range(5)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)  # the same roundings, where the backend changes none
    assert None not in svi.compiler.steps.values()


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_a_compiled_step_may_round_elsewhere_in_bfloat16(precision):
    svi = SVI(*pair(), check_every=1, compile="eager", precision=precision)
    with contextlib.nullcontext() if precision else pytest.raises(NotCaptured, match="without compiling"):
        compared.compare(svi, torch.tensor(100.5), torch.tensor(100.0))
    with pytest.raises(NotCaptured):
        compared.compare(svi, torch.tensor(103.0), torch.tensor(100.0))


@pytest.mark.parametrize(
    "loss", [objectives.IWAE(3, chunk_size=1), objectives.DReG(2), Trace_ELBO(), objectives.ELBO(3)]
)
def test_every_objective_takes_it(loss):
    losses = []
    for precision in (None, "bf16"):
        svi = SVI(*pair(), loss=loss, precision=precision)
        torch.manual_seed(1)
        losses.append(float(svi.step(binary())))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=1e-2)


def linear(precision, epochs: int = 25) -> torch.Tensor:
    r"""ELBO of each point after a training on data of a linear model."""
    torch.manual_seed(0)
    x = PPCA(D, 8, scale=0.5)(size=300).detach()
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.Linear(D, 8)))
    guide = guides.Amortized(nets.MLP(8, 16, hidden=()), D)
    fit(model, guide, x, epochs=epochs, batch_size=50, lr=2e-2, seed=1, precision=precision)
    assert {p.dtype for p in (*model.parameters(), *guide.parameters())} == {torch.float32}
    return evaluate.elbo(model, guide, x, None, 200, seed=2).detach()


def test_a_training_ends_within_two_standard_errors_of_float32():
    plain, rounded = linear(None), linear("bf16")
    difference, error = rounded - plain, 2 * float(plain.std()) / len(plain) ** 0.5
    assert abs(float(difference.mean())) < error < float(plain.mean() - linear(None, 1).mean())
    assert float(difference.abs().mean()) > 0


def test_evaluation_and_validation_are_float32():
    model, guide = pair()
    x, index = binary(), torch.arange(N)
    svi = SVI(model, guide, precision="bf16")
    svi.step(x)
    copied = copy.deepcopy((model, guide))
    assert torch.equal(evaluate.elbo(model, guide, x, index, 2, seed=0), evaluate.elbo(*copied, x, index, 2, seed=0))
    seen = Outputs(model.likelihood.net)
    evaluate.elbo(model, guide, x, index, 2, seed=0)
    assert {y.dtype for y in seen.found[0]} == {torch.float32}
    seen = Outputs(model.likelihood.net)
    fit(model, guide, x, epochs=1, x_val=x[:5], precision="bf16")
    assert [y.dtype for y in seen.found[0]][-1] == torch.float32 and torch.bfloat16 in {y.dtype for y in seen.found[0]}


def run(out, epochs: int, precision="bf16", **options):
    model, guide = pair(rows=options.pop("rows", False))
    fit(
        model,
        guide,
        binary(),
        epochs=epochs,
        batch_size=10,
        seed=2,
        schedule="constant",
        out=out,
        **options | {"precision": precision},
    )
    return cases.tensors(model, guide)


@pytest.mark.parametrize("options", [{}, {"rows": True}])
def test_a_run_resumes_bit_for_bit_and_keeps_its_precision(options, tmp_path):
    whole = run(tmp_path / "whole", 3, **options)
    run(tmp_path / "part", 1, **options)
    shutil.copytree(tmp_path / "part", tmp_path / "other")
    assert cases.same(whole, run(tmp_path / "part", 3, resume=True, **options))
    with pytest.raises(RunError, match=r"fit.precision was 'bf16', now None"):
        run(tmp_path / "other", 3, None, resume=True, **options)


def test_what_it_cannot_do_is_refused_by_name():
    ppca = PPCA(2, 5)
    for guide in (guides.Exact(ppca), guides.Laplace(ppca)):
        with pytest.raises(ValueError, match=r"guide is (Exact|Laplace), which solves for q"):
            SVI(ppca, guide, precision="bf16")
    with pytest.raises(ValueError, match=r"networks of torch.float64; expected networks of torch.float32"):
        SVI(*(part.double() for part in pair()), precision="bf16")
    with pytest.raises(ValueError, match=r"precision is 'fp8'; expected 'bf16', or None"):
        SVI(*pair(), precision="fp8")
    with pytest.raises(ValueError, match=r"precision is 'half'; expected 'bf16'"):
        fit(*pair(), binary(), epochs=1, precision="half")

    class Plain(nn.Module):
        out_shape = (5,)

        def __init__(self):
            super().__init__()
            self.W = nn.Parameter(torch.randn(2, 5))

        def forward(self, t):
            return t @ self.W

    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(Plain()))
    with pytest.raises(ValueError, match="the pair has no network"):
        SVI(model, guides.MeanField(3, 2), precision="bf16")


def test_an_error_in_a_network_leaves_no_autocast():
    model, guide = pair()
    svi = SVI(model, guide, precision="bf16")
    with warnings.catch_warnings(), pytest.raises(ValueError, match="shape"):
        warnings.simplefilter("error")
        svi.step(torch.zeros(3, P + 1))
    assert not torch.is_autocast_enabled("cpu")
    svi.step(binary())


def test_a_bad_step_is_named_as_in_float32():
    model, guide = pair()
    x = binary()
    svi = SVI(model, guide, check_every=1, precision="bf16")
    seen = Outputs(model.likelihood.net)
    svi.step(x)  # with Pyro's validation, which raises its own error
    with torch.no_grad():
        guide.head.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"guide\.head\.bias"):
        svi.step(x)
    assert len(seen.found[0]) > 2 and {y.dtype for y in seen.found[0]} == {torch.bfloat16}  # repeated as it was


def test_the_command_line_has_it(tmp_path):
    command = ["fit", "--latents", "2", "--epochs", "1", "--batch-size", "700", "--precision"]
    assert CliRunner().invoke(main, [*command, "bf16", "--out", str(tmp_path)]).exit_code == 0
    assert '"precision": "bf16"' in (tmp_path / "config.json").read_text()
    said = CliRunner().invoke(main, [*command, "half", "--out", str(tmp_path / "no")])
    assert said.exit_code == 2 and "bf16" in said.output
