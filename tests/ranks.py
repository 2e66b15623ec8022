r"""Trainings that run in several processes, each in torch's process group, and what they return."""

import multiprocessing
import os
import traceback
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
import torch.distributed as dist
from click.testing import CliRunner
from torch.distributions import normal

from pyro_dlgm import DLGM, fit, guides, likelihoods, nets, priors
from pyro_dlgm.runs.files import RunError
from pyro_dlgm.runs.run import Run
from pyro_dlgm.training import autosave
from pyro_dlgm.training.loop import Training

CONTEXT = multiprocessing.get_context("forkserver")  # its server imports once what all processes need
CONTEXT.set_forkserver_preload(["torch._dynamo", "ranks", "pyro_dlgm.training.tensorboard"])
WAIT = 300  # seconds after which a test gives up


def on_ranks(num: int, folder: Path, function, *arguments) -> list:
    r"""Returns ``function(rank, *arguments)`` from each of ``num`` processes; an error of one fails the test."""
    folder.mkdir(parents=True)
    calls = [CONTEXT.Process(target=_call, args=(rank, num, folder, function, arguments)) for rank in range(num)]
    for call in calls:
        call.start()
    for call in calls:
        call.join(WAIT)
        call.kill()
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(num)]
    for errors in (f for f in found if isinstance(f, Failed)):
        raise AssertionError(errors.text)
    return found


class Failed(NamedTuple):
    r"""Creates what a process returns after an error: its traceback."""

    text: str


def _call(rank: int, num: int, folder: Path, function, arguments) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    pyro.clear_param_store()
    dist.init_process_group("gloo", init_method=f"file://{folder.absolute()}/store", rank=rank, world_size=num)
    try:
        found = function(rank, *arguments)
    except Exception:
        found = Failed(traceback.format_exc())
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


# What they do


N, D, P, SIZE, STEPS = 21, 2, 4, 6, 4  # parts of 10 and 11 points, batches of 2 or 3 each
NOISE = torch.randn(N, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
KINDS = ("mean_field", "amortized")
seen = []  # the points of each call of the guide in this process: one before the first step, then one a step


class SeenRows(guides.MeanField):
    def posterior(self, x=None, index=None, mask=None, given=None):
        seen.append(index)
        return super().posterior(x, index, mask, given)


class SeenEncoder(guides.Amortized):
    def posterior(self, x=None, index=None, mask=None, given=None):
        seen.append(index)
        return super().posterior(x, index, mask, given)


def pair(kind, net=None):
    torch.manual_seed(1)
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net or nets.MLP(D, P, (8,)), 0.5))
    guide = SeenRows(N, D) if kind == "mean_field" else SeenEncoder(nets.MLP(P, 8, (8,)), D)
    return model, guide


def points(dtype=torch.float32):
    return torch.rand(N, P, generator=torch.Generator().manual_seed(0), dtype=dtype)


def jitter(x):
    return x + 0.01 * torch.rand_like(x)


class Noted:
    r"""Creates the listener that notes loss, norm of the gradient, and number of points of each step."""

    def __init__(self):
        self.steps = []

    def after(self, step, record):
        self.steps.append((float(step.loss), float(step.gradient_norm), step.points))


def replayed(shape, dtype, device):
    r"""The noise of the points that are drawn for, whichever process draws it."""
    return NOISE[seen[-1]].expand(shape) if seen else torch.zeros(shape, dtype=dtype)  # checks draw before


def moments(optimizers):
    r"""Adam's first moments, in which a factor of the gradient stays, apart for dense parameters and rows."""
    dense, *rows = ([state["exp_avg"] for state in o.state.values()] for o in optimizers)
    return dense, rows[0] if rows else []


SETTINGS = {"schedule": "constant", "clip_norm": 3.0, "e_steps": 2}
WEIGHT = torch.linspace(0.5, 2.0, N, dtype=torch.float64)


def of_one_batch_in_parts(rank, kind):
    seen.clear()
    normal._standard_normal = replayed
    model, guide = (part.double() for part in pair(kind))
    noted, x = Noted(), points(torch.float64)
    result = fit(
        *(model, guide, x), steps=STEPS, batch_size=SIZE, ranks=True, weight=WEIGHT, listeners=[noted], **SETTINGS
    )
    weights = [p.detach() for p in (*model.parameters(), *guide.parameters())]
    return seen[1:], noted.steps, moments(result.optimizers), weights, result.history


def of_draws(rank, seed):
    drawn, after = [], []
    torch.manual_seed(rank)  # each makes another w, and all take that of process 0
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (8,)), 0.5))
    guide = guides.Amortized(nets.MLP(P, 8, (8,)), D)
    torch.manual_seed(1)
    settings = {"steps": 3, "batch_size": SIZE, "seed": seed, "ranks": True, "listeners": [Weights(model, after)]}
    fit(model, guide, points(), transform=lambda x: noted(drawn, x), **settings)
    return torch.cat(drawn), after, torch.rand(1)


class Weights:
    r"""Creates the listener that notes w after each step."""

    def __init__(self, model, noted):
        self.model, self.noted = model, noted

    def after(self, step, record):
        self.noted.append(torch.cat([p.detach().flatten() for p in self.model.parameters()]))


def noted(drawn, x):
    u = torch.rand_like(x)
    drawn.append(u.flatten())
    return x + 0.01 * u


class Break:
    r"""Creates the listener that ends the training at a step, in each process."""

    def __init__(self, at):
        self.at = at

    def after(self, step, record):
        if step.step == self.at:
            raise RunError("broken")


OF_RUN = {"batch_size": SIZE, "seed": 3, "transform": jitter, "x_val": points()[:5]}


def of_run(rank, out, epochs=3, at=None):
    r"""The history of a run, without times; or what it said when it was broken off at a step."""
    if at is not None:
        autosave.EVERY = 0.0
    try:
        more = {"listeners": [Break(at)], "out": out, "resume": True, "ranks": True}
        result = fit(*pair("mean_field"), points(), epochs=epochs, **OF_RUN, **more)
    except RunError as error:
        return str(error)
    return [{k: v for k, v in r.items() if "second" not in k} for r in result.history]


def of_full_disk(rank, out):
    r"""What a run says whose second process finds no room for its second checkpoint."""
    write = Run.save_part

    def full(self, name, rows):
        if name == "checkpoint-2-1-of-2.pt":
            raise RunError("no room")
        write(self, name, rows)

    Run.save_part = full
    return of_run(rank, out, at=0)


class Spoiled(guides.MeanField):
    r"""Rows whose gradient is not a number at the third step of process 1, where the loss is one."""

    def posterior(self, x=None, index=None, mask=None, given=None):
        seen.append(index)
        raw = self.rows(index)
        if raw.requires_grad and len(seen) >= 4 and int(index.min()) >= N // 2:
            raw.register_hook(lambda g: g * float("nan"))
        return self.family(raw)


def of_bad_step(rank, bad):
    seen.clear()
    model, guide = pair("mean_field")
    guide = Spoiled(N, D) if bad == "row" else guide

    def spoils(x):
        return x * float("nan") if bad == "loss" and rank == 1 and len(seen) == 3 else x

    try:
        fit(model, guide, points(), epochs=2, batch_size=SIZE, seed=3, ranks=True, transform=spoils)
    except FloatingPointError as error:
        return str(error), [p.detach() for p in model.parameters()]


class Warmed(nets.MLP):
    r"""Creates a network with a shift that it uses at its first calls alone: then the shift has no gradient.

    Arguments:
        calls: how many of them use it in process 0; those of process 1 use it at one call more.
    """

    def __init__(self, calls, rank):
        super().__init__(D, P, (8,))
        self.shift, self.left = torch.nn.Parameter(torch.zeros(P)), calls + rank

    def forward(self, t):
        self.left -= torch.is_grad_enabled() and t.requires_grad
        return super().forward(t) + (self.shift if self.left >= 0 else 0)


def of_vanishing_gradient(rank):
    r"""The shift after each step, the steps that Adam has counted for it, and the gradients that it got."""
    torch.manual_seed(1)
    net, shifts = Warmed(3, rank), []
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(net, 0.5))
    guide = guides.Amortized(nets.MLP(P, 8, (8,)), D)
    listeners = [Shift(net, shifts)]
    result = fit(model, guide, points(), steps=8, batch_size=SIZE, seed=3, ranks=True, listeners=listeners, **CONSTANT)
    return shifts, int(result.optimizers[0].state[net.shift]["step"])


CONSTANT = {"schedule": "constant"}


class Shift:
    def __init__(self, net, noted):
        self.net, self.noted = net, noted

    def after(self, step, record):
        self.noted.append(self.net.shift.detach().clone())


def of_failure(rank, where):
    r"""What the processes raise where process 1 runs out of memory: in its own work, or in a message."""
    calls = []

    def spoils(x):
        calls.append(1)
        if where == "work" and rank == 1 and len(calls) == 3:
            raise torch.cuda.OutOfMemoryError("no room for 3 GiB")
        return x

    total = dist.all_reduce

    def reduced(value, *rest, **more):
        if where == "message" and rank == 1 and len(calls) == 3:
            raise torch.cuda.OutOfMemoryError("no room for 3 GiB")
        return total(value, *rest, **more)

    dist.all_reduce = reduced
    try:
        fit(*pair("amortized"), points(), epochs=2, batch_size=SIZE, seed=3, ranks=True, transform=spoils)
    except (RunError, RuntimeError) as error:
        return type(error).__name__, str(error)


def of_other_state(rank, out):
    r"""What the processes raise where the checkpoint does not fit the second one."""
    if rank == 1:
        Training.load_state_dict = lambda self, state: state["moments"]
    return of_run(rank, out, 1)


def of_command(rank, line):
    r"""Return code, output and errors of a command, as torchrun would start it."""
    from pyro_dlgm.cli.main import main

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    result = CliRunner().invoke(main, line.split())
    return result.exit_code, result.stdout, result.stderr


def of_other_arguments(rank):
    try:
        fit(*pair("amortized"), points(), epochs=1 + rank, batch_size=SIZE, ranks=True)
    except (ValueError, RunError) as error:
        return str(error)
