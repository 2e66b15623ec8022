r"""What a step asks of a device: no number is read and nothing is copied to and fro; sums have the dtype that it has.

The device is torch's "meta", on which each reading is an error.
"""

import copy

import cases
import pyro
import pytest
import torch
from pyro_dlgm.guides.rows import Rows
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_dlgm import DLGM, PPCA, SVI, evaluate, guides, likelihoods, nets, priors
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.optim.nan_guard import Watch
from pyro_dlgm.optim.row_adam import RowAdam
from pyro_dlgm.storage import sums

# Laplace's steps end where each point has converged; Pyro's own guides make their parameters from numbers.
STEPPING = [name for name in cases.NAMES if name not in ("laplace", "auto_normal", "auto_delta")]


class Moves(TorchDispatchMode):
    r"""Refuses to wait for a copy between devices; numbers for single elements are no copies."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        inside = [v.device for v in args if isinstance(v, Tensor)]
        if func is torch.ops.aten._to_copy.default and made.device != inside[0]:
            assert (kwargs or {}).get("non_blocking"), f"a copy from {inside[0]} to {made.device} is waited for"
        if func is torch.ops.aten.copy_.default and inside[0] != inside[1]:
            assert len(args) > 2 and args[2], f"a copy from {inside[1]} to {inside[0]} is waited for"
        return made


class Skipping(torch.optim.Adam):
    r"""Stands for the fused Adam, which torch does not have on meta; it does not look at the flag."""

    _step_supports_amp_scaling = True

    def step(self, closure=None):
        self.found_inf = None
        return super().step(closure)


def on_meta(name: str) -> tuple[SVI, tuple]:
    torch.manual_seed(0)
    case = cases.make(name)
    if name == "chain":  # at the first visit of a point it asks which points are new
        case.guide(*cases.make(name).args)
        case.guide.transitions.clamp_min_(1)
        case.guide._waiting = None
        case.guide(*case.args)
    case.model.to("meta"), case.guide.to("meta")
    tables = [m.weight for m in case.guide.modules() if isinstance(m, Rows)]
    dense = [p for m in (case.model, case.guide) for p in m.parameters() if all(p is not t for t in tables)]
    optimizers = [Skipping(dense), *([RowAdam(tables)] if tables else [])]
    svi = SVI(case.model, case.guide, optimizers, check_every=50)
    svi.validated = True
    return svi, (case.x.to("meta"), case.index.to("meta"))


@pytest.mark.parametrize("name", STEPPING)
def test_a_step_reads_nothing_and_waits_for_no_copy(name):
    svi, args = on_meta(name)
    with Moves():
        for _ in range(2):
            loss = svi.step(*args, size=cases.N, factor=1 / cases.N)
    assert loss.device.type == "meta" and svi.backward_passes == 2


def test_the_test_sees_a_reading_and_a_copy():
    svi, args = on_meta("mean_field")
    svi.watch = Watch(1)
    with pytest.raises(RuntimeError, match="meta"):
        svi.step(*args, size=cases.N)
    with pytest.raises(AssertionError, match="waited for"), Moves():
        torch.zeros(3).to("meta")
    with Moves():
        torch.zeros(3).to("meta", non_blocking=True)


def test_batches_go_to_the_device_once_a_pass():
    with Moves(), pytest.raises(AssertionError, match="waited for"):
        next(iter(Batches(torch.zeros(10, 2, device="meta"), 5)))  # the order of the pass
    order = Batches(torch.zeros(10, 2, device="meta"), 5)
    batches = iter(order)
    next(batches)
    with Moves():
        assert next(batches).index.device.type == "meta"
        # Orders of many points, and of blocks, are computed batch by batch.
        assert len(list(Batches(torch.zeros(10, 2, device="meta"), 5, block=5))) == 2


def test_a_chain_asks_which_points_are_new_until_none_is():
    torch.manual_seed(0)
    case = cases.make("chain")
    guide = case.guide
    guide(*case.args)
    assert guide._waiting == cases.N - cases.B
    guide(case.x, case.index)
    assert guide._waiting == cases.N - cases.B
    twice = torch.tensor([1, 1, 3, 4])
    guide(case.x, twice)
    assert guide._waiting == cases.N - cases.B - 3
    guide(cases.points(case.model, 2), torch.tensor([5, 6]))
    assert guide._waiting == 1 and guide.transitions[8] == 0
    guide(cases.points(case.model, 1), torch.tensor([8]))
    assert guide._waiting == 0 and guide.transitions[8] == guide.transitions[5] == 3  # two of them are its burn-in
    other = copy.deepcopy(guide)
    fresh = case.fresh_guide()
    other.load_state_dict(fresh.state_dict())
    other(*case.args)
    assert other._waiting == cases.N - cases.B and (other.transitions > 0).sum() == cases.B


@pytest.mark.parametrize("W", [float("nan"), 3e7])
def test_an_exact_posterior_without_factors_is_named_when_the_flag_is_read(W):
    torch.manual_seed(0)
    model = PPCA(2, 5)
    svi = SVI(model, guides.Exact(model), check_every=50)
    x = torch.randn(4, 5)
    svi.step(x)
    with torch.no_grad():
        model.W[0] = W
    before = cases.tensors(model)
    for _ in range(2):
        assert svi.step(x).isnan()
    with pytest.raises(FloatingPointError, match=r"the loss at step 2 does not exist \(WᵀW \+ σ² I has no factors"):
        svi.check()
    for old, new in zip(before, cases.tensors(model), strict=True):  # no step was taken
        torch.testing.assert_close(new, old, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(torch.linalg.LinAlgError, match="has no factors"):
        model.log_prob(x)


def test_exact_steps_are_the_same_whenever_the_flag_is_read():
    found = []
    for every in (1, 50):
        torch.manual_seed(0)
        model = PPCA(2, 5)
        svi = SVI(model, guides.Exact(model), check_every=every)
        torch.manual_seed(1)
        found.append([float(svi.step(torch.ones(4, 5))) for _ in range(3)])
    assert found[0] == found[1]


class No64(TorchDispatchMode):
    r"""Refuses to make float64 of data; constants may be drawn in it, as they are on the CPU in any case."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        inside = {v.dtype for v in args if isinstance(v, Tensor)} - {torch.float64}
        several = made if isinstance(made, tuple | list) else (made,)
        wide = any(isinstance(v, Tensor) and v.dtype == torch.float64 and v.dim() for v in several)
        assert not (inside and wide), func
        return made


def model_of(likelihood) -> DLGM:
    torch.manual_seed(0)
    return DLGM(priors.StandardNormal(2), likelihood)


SUMMING = {
    "low rank": lambda: model_of(likelihoods.LowRankNormal(nets.MLP(2, 5, hidden=(4,), heads=4), rank=2)),
    "bernoulli": lambda: model_of(likelihoods.Bernoulli(nets.MLP(2, 5, hidden=(4,)))),
    "ppca": lambda: (torch.manual_seed(0), PPCA(2, 5))[1],
}


@pytest.mark.parametrize("name", SUMMING)
def test_sums_are_float32_where_a_device_has_no_float64(name, monkeypatch):
    model, x = SUMMING[name](), (torch.rand(6, 5) > 0.5).float()
    guide = guides.MeanField(6, 2)
    tables = []
    for kinds in ((), ("cpu",)):
        monkeypatch.setattr(sums, "WITHOUT_FLOAT64", kinds)
        with No64() if kinds else torch.no_grad(), torch.enable_grad(), pyro.validation_enabled(False):
            p, q = copy.deepcopy((model, guide))
            svi = SVI(p, guides.Exact(p) if name == "ppca" else q, check_every=50)
            torch.manual_seed(1)
            losses = torch.stack([svi.step(x, torch.arange(6)) for _ in range(2)])
            tables.append((losses, evaluate.ais(p, q, x, torch.arange(6), 2, 5, seed=0).log_weights))
        assert tables[-1][1].dtype == (torch.float32 if kinds else torch.float64)
    torch.testing.assert_close(tables[0][0], tables[1][0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(tables[0][1].float(), tables[1][1], rtol=1e-3, atol=1e-2)


def test_the_dtype_of_sums():
    assert sums.sums_dtype("cpu") == sums.sums_dtype("cuda:1") == torch.float64
    assert sums.sums_dtype("mps") == torch.float32
