r"""Pyro's optimizers and SVI, and torch's."""

import copy

import cases
import pyro
import pyro.infer as infer
import torch
from pyro.optim.multi import MixedMultiOptimizer, Newton
from torch.optim import swa_utils

from pyro_dlgm import SVI, fit, guides
from pyro_dlgm.objectives import ELBO

from .group import MISLEADS, Group
from .pairs import INDEX, B, N, Pair, about, check_moves, close, exact, images, linear, same_draw

tool = Group("SVI and optimizers: `pyro.infer.SVI`, `pyro.optim`, `torch.optim`")


def stock(pair: Pair, optimizer, loss=None) -> infer.SVI:
    return infer.SVI(pair.model, pair.guide, optimizer, loss or infer.Trace_ELBO())


@tool("pyro.infer.SVI.step", "the loss is summed over the points, with the scale N/B of `size=N`")
def stepping():
    pair = exact()
    close(check_moves(pair, cases.stock(pair.model, pair.guide).step, size=N), -N / B * pair.evidence.sum())


@tool("pyro.infer.SVI.step, under torch.no_grad", "it trains all the same, by Adam's momentum", MISLEADS)
def stepping_without_gradients():
    pair = images()
    svi = cases.stock(pair.model, pair.guide)
    svi.step(*pair.args)
    for p in (*pair.model.parameters(), *pair.guide.parameters()):
        p.grad = torch.zeros_like(p)
    with torch.no_grad():
        check_moves(pair, svi.step)


@tool("pyro.infer.SVI.evaluate_loss", "nothing moves; it does not call `.eval()`, which `evaluate` does")
def evaluating():
    pair = exact()
    before = cases.tensors(pair.model, pair.guide)
    close(cases.stock(pair.model, pair.guide).evaluate_loss(*pair.args), -pair.evidence.sum())
    assert cases.same(before, cases.tensors(pair.model, pair.guide))


def climbing(pair: Pair, svi, steps: int = 60) -> None:
    r"""A training that lowers the loss, at the same draws."""
    first = same_draw(svi.evaluate_loss, *pair.args)
    for _ in range(steps):
        svi.step(*pair.args)
    assert same_draw(svi.evaluate_loss, *pair.args) < first


OPTIMIZERS = {
    "Adam": {"lr": 1e-2},
    "ClippedAdam": {"lr": 1e-2, "clip_norm": 5.0},
    "AdagradRMSProp": {"eta": 0.1},
    "DCTAdam": {"lr": 1e-2},
    "SGD": {"lr": 1e-3},
}
WORDS = {
    "Adam": "one optimizer for each parameter; `fit` has one fused Adam, and `RowAdam` for rows",
    "ClippedAdam": "it clips each number of a gradient; `fit(clip_norm=)` clips the norm of all",
    "AdagradRMSProp": "one optimizer for each parameter",
    "DCTAdam": "it is for parameters along time, of which there are none here",
    "SGD": "as every torch optimizer, by its name in `pyro.optim`",
}
for optimizer_name, options in OPTIMIZERS.items():

    @tool(f"pyro.optim.{optimizer_name}", WORDS[optimizer_name])
    def optimizing(name=optimizer_name, options=options):
        pair = exact(2.0)
        svi = stock(pair, getattr(pyro.optim, name)(options))
        check_moves(pair, svi.step)
        climbing(pair, svi)


@tool(
    "pyro.optim.Adam, with a function of the name",
    "names are those of the module tree after one of the pair: `DLGM_3.likelihood.u`",
)
def rates_by_name():
    pair, names = images(), []

    def rate(name):
        names.append(name)
        return {"lr": 0.0 if name.startswith("DLGM") else 0.1}

    before = cases.tensors(pair.model)
    q = cases.tensors(pair.guide)
    svi = stock(pair, pyro.optim.Adam(rate))
    svi.step(*pair.args)
    assert cases.same(before, cases.tensors(pair.model)) and cases.unmoved(pair.guide, q) == []
    assert any(name.startswith("DLGM") and name.endswith(".likelihood.u") for name in names)


@tool("pyro.optim.Adam, rows out of the batch", "they go on moving by their momentum; `RowAdam` leaves them", MISLEADS)
def moving_other_rows():
    pair = exact(2.0)
    svi = cases.stock(pair.model, pair.guide)
    svi.step(*pair.args, size=N)
    before = pair.guide.rows.weight.detach().clone()
    pair.index = torch.tensor([1, 3, 4, 5])
    svi.step(*pair.args, size=N)
    assert (pair.guide.rows.weight != before).any(1)[INDEX].all()


@tool("pyro.optim.PyroLRScheduler", "ExponentialLR and the like: `step()` after an epoch, as in torch")
def scheduling():
    pair = images()
    options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}, "gamma": 0.5}
    scheduler = pyro.optim.ExponentialLR(options)
    svi = stock(pair, scheduler)
    for _ in range(3):
        check_moves(pair, svi.step)
        scheduler.step()
    rates = {group["lr"] for made in scheduler.optim_objs.values() for group in made.optimizer.param_groups}
    assert rates == {1e-3 / 8}


@tool(
    "PyroOptim.set_state, on another pair",
    "states go by names in the store, and each pair has its own: nothing is restored, and nothing said",
    MISLEADS,
)
def restoring_an_optimizer():
    pair, optimizer = exact(2.0), pyro.optim.Adam({"lr": 1e-2})
    svi = stock(pair, optimizer)
    for _ in range(5):
        svi.step(*pair.args)
    model, guide = copy.deepcopy((pair.model, pair.guide))
    state, restored = copy.deepcopy(optimizer.get_state()), pyro.optim.Adam({"lr": 1e-2})
    restored.set_state(state)
    same_draw(infer.SVI(model, guide, restored, infer.Trace_ELBO()).step, *pair.args)
    same_draw(svi.step, *pair.args)
    assert not torch.allclose(model.W, pair.model.W, rtol=0, atol=1e-3)


@tool("PyroOptim.set_state, on the same pair", "the training goes on bit for bit")
def restoring_the_optimizer():
    pair = exact(2.0)
    svi = stock(pair, pyro.optim.Adam({"lr": 1e-2}))
    for _ in range(5):
        svi.step(*pair.args)
    state = copy.deepcopy(svi.optim.get_state())
    programs = [copy.deepcopy(program.state_dict()) for program in (pair.model, pair.guide)]
    ends = []
    for _ in range(2):
        pair.model.load_state_dict(programs[0]), pair.guide.load_state_dict(programs[1])
        restored = stock(pair, pyro.optim.Adam({"lr": 1e-2}))
        restored.optim.set_state(copy.deepcopy(state))
        same_draw(restored.step, *pair.args)
        ends.append(cases.tensors(pair.model, pair.guide))
    pair.model.load_state_dict(programs[0]), pair.guide.load_state_dict(programs[1])
    same_draw(svi.step, *pair.args)
    assert cases.same(*ends) and cases.same(ends[0], cases.tensors(pair.model, pair.guide))


@tool("pyro.optim.multi.Newton", "on rows of at most three numbers; one step is exact for a point estimate of PPCA")
def newton():
    model, guide = cases.ppca().double(), guides.PointEstimate(N, 2).double()
    pair = Pair(model, guide, torch.randn(N, 6).double())
    loss = infer.Trace_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, *pair.whole)
    params = {name: p.unconstrained() for name, p in pyro.get_param_store().named_parameters()}
    rows = [name for name in params if name.endswith("rows$$$weight")]
    rest = [name for name in params if name not in rows]
    expected, before = model.posterior(pair.everything).mean.detach(), cases.tensors(model)
    MixedMultiOptimizer([(rows, Newton()), (rest, pyro.optim.Adam({"lr": 1e-3}))]).step(loss, params)
    close(guide.rows.weight.detach(), expected)
    assert cases.unmoved(model, before) == []


@tool("pyro_dlgm.SVI, with an optimizer of Pyro", "give `pyro.infer.SVI`", TypeError, "is not a torch optimizer")
def our_svi_with_pyros():
    pair = images()
    SVI(pair.model, pair.guide, [pyro.optim.Adam({"lr": 1e-3})])


@tool(
    "pyro.infer.SVI, with an optimizer of torch", "give `pyro_dlgm.SVI`", ValueError, "instance of pyro.optim.PyroOptim"
)
def pyros_svi_with_torchs():
    pair = images()
    stock(pair, torch.optim.Adam(pair.model.parameters()))


@tool("torch.optim, any of one step without a closure", "as a list: `SVI(model, guide, [optimizer])`")
def torch_optimizers():
    for make in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.RAdam):
        pair = images()
        optimizer = make([*pair.model.parameters(), *pair.guide.parameters()], lr=1e-3)
        check_moves(pair, SVI(pair.model, pair.guide, [optimizer]).step)


@tool("torch.optim.SparseAdam, on rows", "only the batch's rows move; its step count is one for all rows")
def sparse():
    pair = exact(2.0)
    before = pair.guide.rows.weight.detach().clone()
    both = [torch.optim.Adam(pair.model.parameters()), torch.optim.SparseAdam(pair.guide.parameters())]
    check_moves(pair, SVI(pair.model, pair.guide, both).step)
    moved = (pair.guide.rows.weight != before).any(1).nonzero().flatten().tolist()
    assert set(moved) == set(INDEX.tolist())


@tool("torch.optim.LBFGS, in SVI", "it needs a closure, which SVI does not pass: call it by hand", TypeError, "closure")
def lbfgs_in_svi():
    pair = images()
    optimizer = torch.optim.LBFGS([*pair.model.parameters(), *pair.guide.parameters()])
    SVI(pair.model, pair.guide, [optimizer]).step(*pair.args)


@tool("torch.optim.LBFGS, by hand", "with the same draws at each evaluation, `pyro.poutine.seed` or a seed")
def lbfgs():
    pair = linear()
    parameters = [*pair.model.parameters(), *pair.guide.parameters()]
    optimizer = torch.optim.LBFGS(parameters, lr=0.5, max_iter=20)

    def closure():
        optimizer.zero_grad()
        return same_draw(ELBO(20).loss_and_grads, pair.model, pair.guide, *pair.whole)

    first = closure().item()
    check_moves(pair, lambda *_: optimizer.step(closure))
    assert closure().item() < first - 20


@tool("torch.optim.lr_scheduler", "on the optimizers of `SVI`; `fit(schedule=)` takes a function of the fraction done")
def torch_schedules():
    pair = images()
    svi = SVI(pair.model, pair.guide)
    schedulers = [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1) for optimizer in svi.optimizers]
    first = [group["lr"] for optimizer in svi.optimizers for group in optimizer.param_groups]
    for _ in range(2):
        check_moves(pair, svi.step)
        for scheduler in schedulers:
            scheduler.step()
    last = [group["lr"] for optimizer in svi.optimizers for group in optimizer.param_groups]
    close(torch.tensor(last), 0.01 * torch.tensor(first), rtol=1e-6)


@tool("torch.nn.utils.clip_grad_norm_", "between `loss_and_grads` and the step; `SVI(clip_norm=)` and `fit` do it")
def clipping():
    pair, ends = images(), []
    programs = copy.deepcopy((pair.model, pair.guide))
    for by_hand in (True, False):
        model, guide = copy.deepcopy(programs)
        parameters = [*model.parameters(), *guide.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        if by_hand:
            same_draw(ELBO().loss_and_grads, model, guide, *pair.args)
            torch.nn.utils.clip_grad_norm_(parameters, 1e-2)
            about(torch.stack([p.grad.norm() for p in parameters]).norm(), 1e-2, 1e-5)
            optimizer.step()
        else:
            same_draw(SVI(model, guide, [optimizer], clip_norm=1e-2).step, *pair.args)
        ends.append([p.detach() for p in parameters])
    close(*ends, rtol=1e-5, atol=1e-6)


@tool("torch.optim.swa_utils.AveragedModel", "its copy, `.module`, is a separate model for `evaluate`")
def averaging():
    pair, seen = exact(2.0), []
    average, svi = swa_utils.AveragedModel(pair.model), SVI(pair.model, pair.guide)
    for _ in range(3):
        svi.step(*pair.args)
        average.update_parameters(pair.model)
        seen.append(pair.model.W.detach().clone())
    close(average.module.W.detach(), sum(seen) / 3)
    assert average.module._pyro_name != pair.model._pyro_name


@tool("torch.use_deterministic_algorithms", "it forbids nothing that a training needs")
def deterministic():
    ends = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            torch.manual_seed(0)
            pair = images()
            fit(pair.model, pair.guide, pair.everything, steps=3, batch_size=4, seed=1)
            ends.append(cases.tensors(pair.model, pair.guide))
    finally:
        torch.use_deterministic_algorithms(False)
    assert cases.same(*ends)
