r"""Compiled steps: the numbers of the eager ones, and a word where there is none."""

import copy
import random
import shutil
import warnings

import cases
import pytest
import torch
from torch import nn

from pyro_dlgm import DLGM, SVI, fit, guides, likelihoods, nets, objectives, priors
from pyro_dlgm.optim.compiled import compiler
from pyro_dlgm.optim.compiled.capture import capture
from pyro_dlgm.optim.compiled.program import program
from pyro_dlgm.optim.svi import adam

CAPTURED = ["point", "mean_field", "full_rank", "amortized", "amortized_full_rank", "auto_normal"]
MOVING = ["exact", "chain", "hybrid", "laplace"]


def small(rows: bool = False):
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(2), likelihoods.FixedNormal(nets.MLP(2, 6, hidden=(8,))))
    return model, guides.MeanField(24, 2) if rows else guides.Amortized(nets.MLP(6, 8, hidden=()), 2)


def losses(case, compile, num: int = 6, **options) -> tuple[list[float], SVI]:
    svi = SVI(case.model, case.guide, adam(case.model, case.guide), check_every=1, compile=compile, **options)
    torch.manual_seed(1)
    keywords = {"mask": None, "size": cases.N, "factor": 1 / cases.N}
    return [float(svi.step(case.x, case.index, **keywords)) for _ in range(num)], svi


def made(name: str):
    torch.manual_seed(0)
    return cases.make(name)


@pytest.mark.parametrize("name", CAPTURED)
def test_losses_are_those_of_eager_steps(name):
    eager, first = losses(made(name), False, clip_norm=1.0)
    ours, second = losses(made(name), "eager", clip_norm=1.0)
    assert ours == pytest.approx(eager, rel=1e-5)
    assert [step is not None for step in second.compiler.steps.values()] == [True]
    torch.testing.assert_close(first.gradient_norm, second.gradient_norm, rtol=1e-4, atol=0)
    for a, b in zip(first.optimizers, second.optimizers, strict=True):
        for old, new in zip(a.state.values(), b.state.values(), strict=True):
            for key in old:
                torch.testing.assert_close(new[key], old[key], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", MOVING)
def test_what_cannot_be_captured_says_why_once_and_goes_on(name):
    eager, _ = losses(made(name), False, 3)
    with pytest.warns(UserWarning, match="without compiling it: (.* moves by itself|it reads numbers)") as said:
        ours, _ = losses(made(name), "eager", 3)
    assert ours == eager and len([w for w in said if "compiling" in str(w.message)]) == 1


class Rolled(likelihoods.FixedNormal):
    r"""Multiplies its means by a random number of Python: what a graph would freeze."""

    def forward(self, t, mask=None):
        return super().forward(t * (1 + random.random()), mask)


class Read(likelihoods.FixedNormal):
    r"""Reads a number of its parameters."""

    def forward(self, t, mask=None):
        return super().forward(t * float(t.detach().abs().mean() > 0), mask)


@pytest.mark.parametrize(("kind", "words"), [(Rolled, "its loss is .* without compiling"), (Read, "reads numbers")])
def test_a_graph_that_is_not_the_program_is_refused(kind, words):
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(2), kind(nets.MLP(2, 6, hidden=(8,))))
    guide = guides.Amortized(nets.MLP(6, 8, hidden=()), 2)
    with pytest.warns(UserWarning, match=words):
        svi = SVI(model, guide, check_every=1, compile="eager")
        before = svi.optimizers[0].param_groups[0]["params"][0].clone()
        for _ in range(3):
            svi.step(torch.randn(5, 6), factor=0.2)
    assert list(svi.compiler.steps.values()) == [None] and svi.backward_passes == 3
    assert not torch.equal(before, svi.optimizers[0].param_groups[0]["params"][0])


def test_draws_that_depend_on_parameters_are_refused():
    import pyro.distributions as dist

    class Gamma(guides.base.Guide):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.ones(2))

        def posterior(self, x=None, index=None, mask=None):
            return dist.Gamma(self.a.exp(), 1.0).expand((len(x), 2)).to_event(1)

    model, _ = small()
    svi = SVI(model, Gamma(), check_every=1, compile="eager")
    with pytest.warns(UserWarning, match="depends on parameters or data"):
        svi.step(torch.randn(5, 6), factor=0.2)


def history(out=None, compile=False, rows=False, epochs=3, **options) -> tuple[list[float], list[torch.Tensor]]:
    model, guide = small(rows)
    torch.manual_seed(5)
    x = torch.randn(24, 6)
    keywords = {"batch_size": 10, "epochs": epochs, "seed": 2, "compile": compile, "out": out, "warmup": 2} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*those of 10 are compiled.*")
        result = fit(model, guide, x, **keywords)
    tag = "tempered_elbo"
    return [record.get("elbo", record.get(tag)) for record in result.history], cases.tensors(model, guide)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("e_steps", [1, 2])
def test_fit_goes_the_same_way_with_schedules_warm_up_and_ragged_batches(rows, e_steps):
    eager, one = history(rows=rows, e_steps=e_steps, clip_norm=2.0)
    ours, two = history(rows=rows, e_steps=e_steps, clip_norm=2.0, compile="eager")
    assert ours == pytest.approx(eager, rel=1e-5)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_the_ragged_batch_is_named_once():
    model, guide = small()
    with pytest.warns(UserWarning, match="the batch has 4 points, and only those of 10 are compiled") as said:
        fit(model, guide, torch.randn(24, 6), batch_size=10, epochs=3, compile="eager")
    assert len([w for w in said if "compile" in str(w.message)]) == 1


@pytest.mark.parametrize("rows", [False, True])
def test_a_compiled_run_resumes_bit_for_bit_and_also_eager(rows, tmp_path):
    options = {"rows": rows, "schedule": "constant"}
    _, whole = history(tmp_path / "whole", compile="eager", **options)
    history(tmp_path / "part", compile="eager", epochs=1, **options)
    shutil.copytree(tmp_path / "part", tmp_path / "other")
    _, resumed = history(tmp_path / "part", compile="eager", resume=True, **options)
    assert cases.same(whole, resumed)
    _, eager = history(tmp_path / "other", compile=False, resume=True, **options)
    for a, b in zip(whole, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_step_that_is_not_finite_is_not_taken():
    case = made("amortized")
    svi = SVI(case.model, case.guide, check_every=1, compile="eager")
    for _ in range(3):
        svi.step(*case.args, factor=1 / cases.N)
    state = [v for s in svi.optimizers[0].state.values() for v in s.values()]
    before = cases.tensors(case.model, case.guide), [v.clone() for v in state]
    x = case.x.clone()
    x[1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"step 4: .* rows \[1\]"):
        svi.step(x, case.index, factor=1 / cases.N)
    assert cases.same(before[0], cases.tensors(case.model, case.guide))
    assert cases.same(before[1], state)


def test_train_and_eval_are_two_kinds_and_buffers_move_once():
    torch.manual_seed(0)
    # Without a bias, whose gradient before a normalization is rounding alone: Adam would make steps of it.
    body = (nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 8))
    encoder = nn.Sequential(*body)
    model, guide, x = small()[0], guides.Amortized(encoder, 2), torch.randn(9, 6)
    found = []
    for compile in (False, "eager"):
        torch.manual_seed(3)
        p, q = copy.deepcopy((model, guide))
        svi = SVI(p, q, check_every=1, compile=compile)
        values = [float(svi.step(x, factor=1 / 9)) for _ in range(4)]
        q.eval()
        values += [float(svi.step(x, factor=1 / 9)) for _ in range(2)]
        found.append((values, [b.clone() for b in q.buffers()]))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b)
    assert len(svi.compiler.steps) == 2


def stepped(compile, change, num: int = 3):
    r"""The weights after steps, a change of model and guide, and as many further steps."""
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(2), likelihoods.Bernoulli(nets.ConvDecoder(2, (1, 8, 8), widths=(4, 8))))
    guide, x = guides.Amortized(nets.ConvEncoder((1, 8, 8), 8, widths=(4, 8)), 2), torch.rand(6, 1, 8, 8).round()
    svi = SVI(model, guide, adam(model, guide, lr=1e-2), check_every=1, compile=compile)
    for _ in range(num):
        svi.step(x, factor=1 / 6)
    change(model), change(guide)
    for _ in range(num):
        svi.step(x, factor=1 / 6)
    return torch.cat([p.detach().reshape(-1) for p in (*model.parameters(), *guide.parameters())])


@pytest.mark.parametrize("compile", [False, "eager"])
def test_weights_may_get_another_memory_format_between_steps(compile):
    expected = stepped(False, lambda part: None)
    found = stepped(compile, lambda part: part.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_program_is_compiled_anew_for_tensors_of_another_kind(monkeypatch):
    made, compiled = [], lambda graph, tensors: made.append(tensors) or graph
    monkeypatch.setattr(torch._inductor, "compile", compiled, raising=False)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("Dynamo guards a hundred tensors at each step"))
    v = torch.arange(6.0).reshape(2, 3)
    call = program(lambda a, b: [a[0] @ b[0], a[0].sum()], [[v], [v.T]], "inductor")
    for a, times in ((v, 1), (v + 1, 1), (v.double(), 2), (v.T.contiguous().T, 3), (v[:1], 4), (v[:1] + 1, 4)):
        product, total = call(a, a.T)
        assert torch.equal(product, a @ a.T) and float(total) == float(a.sum()) and len(made) == times
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)  # a program has the loops of a number of threads
    call(v[:1], v[:1].T)
    assert len(made) == 5


def test_more_kinds_than_eight_are_not_compiled(monkeypatch):
    monkeypatch.setattr(compiler, "MOST", 2)
    svi = SVI(*small(), check_every=1, compile="eager")
    with pytest.warns(UserWarning, match="more than 2 kinds"):
        for num in (3, 4, 5, 6):
            svi.step(torch.randn(num, 6), factor=1 / num)
    assert len(svi.compiler.steps) == 2 and svi.backward_passes == 4


def test_beta_is_an_input_and_tempered_by_a_tensor():
    model, guide = small()
    objective = objectives.ELBO(beta=0.5)
    svi = SVI(model, guide, loss=objective, check_every=1, compile="eager")
    for beta in (0.5, 0.6, 0.7, 0.8):
        objective.beta = beta
        svi.step(torch.randn(5, 6), factor=0.2)
    assert len(svi.compiler.steps) == 1 and objective.beta == 0.8


def test_inductor_agrees_and_settings_stay():
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler: torch.compile has none to call")
    from torch import _dynamo, _inductor

    before = _inductor.config.shallow_copy_dict(), _dynamo.config.shallow_copy_dict()
    eager, _ = losses(made("mean_field"), False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours, svi = losses(made("mean_field"), True)
    if any("CppCompileError" in str(w.message) or "InvalidCxxCompiler" in str(w.message) for w in said):
        pytest.skip(f"the C++ compiler does not work here: {said[0].message}")
    assert ours == pytest.approx(eager, rel=1e-5) and None not in svi.compiler.steps.values()
    assert before == (_inductor.config.shallow_copy_dict(), _dynamo.config.shallow_copy_dict())


def _written_through_a_view(z):
    z.view(-1)[:3].mul_(100.0)
    return z.sum()


def _written_after_a_view(z):
    flat = z.view(-1)
    z.mul_(100.0)
    return flat.sum()


def _written_through_two_views(z):
    z.view(-1).view(2, -1).mul_(100.0)
    return z.sum()


def _written_in_parts(z):
    flat = z.view(-1)
    z.unbind(0)[0].mul_(100.0)
    return flat.sum()


def _read(z):
    return (z.view(-1) * torch.arange(1.0, 1 + z.numel())).sum()


@pytest.mark.parametrize(
    "end",
    [_written_through_a_view, _written_after_a_view, _written_through_two_views, _written_in_parts, _read],
)
def test_vectorized_a_view_is_the_same_or_refused(end):
    torch.manual_seed(0)
    layer, x, weights = nn.Conv2d(3, 4, 2), torch.randn(2, 3, 5, 5), torch.randn(6, 4, 3, 2, 2)
    with torch.no_grad():
        found = capture(lambda inputs: [end(layer(inputs[0]))], [x], [layer])
        (place,) = [k for k, v in enumerate(found.others()) if v is layer.weight]
        others = [weights if k == place else v for k, v in enumerate(found.others())]
        axes = (None, *(0 if k == place else None for k in range(len(others))))
        expected = torch.stack([end(nn.functional.conv2d(x, weight, layer.bias)) for weight in weights])
        assert torch.allclose(found.graph(x, *found.others())[0], end(layer(x)), rtol=1e-5)
        try:
            (made,) = torch.vmap(found.graph, in_dims=axes)(x, *others)
        except (RuntimeError, ValueError):
            assert end is not _read
        else:
            torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-3)
