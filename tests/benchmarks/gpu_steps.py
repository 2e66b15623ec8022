r"""Which steps wait for the device, and a long training."""

import contextlib
import time
import warnings
from collections.abc import Iterator

import cases
import gpu_made
import torch
from gpu_apart import Asked, said

from pyro_dlgm import SVI
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.optim.nan_guard import interval
from pyro_dlgm.optim.svi import adam
from pyro_dlgm.training.loop import em

STEPS, BATCH = 60_000, 100


def device(asked: Asked) -> None:
    r"""What the device is."""
    torch.zeros(1, device=asked.device)
    if not asked.on_gpu:
        return asked.row(device=asked.device, torch=torch.__version__)
    found = torch.cuda.get_device_properties(asked.device)
    asked.row(device=found.name, memory_gb=found.total_memory / 1e9, torch=torch.__version__, cuda=torch.version.cuda)


@contextlib.contextmanager
def no_waiting(asked: Asked) -> Iterator[None]:
    r"""Context manager: what waits for the device raises an error."""
    if not asked.on_gpu:
        yield
        return
    asked.wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waiting(asked: Asked) -> None:
    r"""The third to fifth step of each guide, after all points have been visited, and those of the training's loop."""
    warnings.filterwarnings("ignore")
    for name in cases.NAMES:
        asked.row(guide=name, waits=_verdict(lambda name=name: _guide(name, asked)))
    asked.row(guide="the loop of fit, amortized", waits=_verdict(lambda: _loop(asked)))
    if not asked.on_gpu:
        asked.note("On the CPU nothing waits: steps were taken, and none was tested for it.")


def _verdict(steps) -> str:
    try:
        steps()
    except Exception as error:  # what waits, or an optional library that is missing
        return said(error)
    return "no"


def _guide(name: str, asked: Asked) -> None:
    torch.manual_seed(0)
    case = cases.make(name)
    model, guide = case.model.to(asked.device), case.guide.to(asked.device)
    x, index = cases.points(model, cases.N).to(asked.device), torch.arange(cases.N, device=asked.device)
    keywords = {"size": cases.N, "factor": 1 / cases.N}
    guide(x, index, size=cases.N)  # Pyro's own guides make their parameters at the first call
    svi = SVI(model, guide, check_every=interval("cuda"))
    for _ in range(2):
        svi.step(x, index, **keywords)
    batch = x[: cases.B], index[: cases.B]
    with no_waiting(asked):
        for _ in range(3):
            svi.step(*batch, **keywords)
    svi.check()


def _loop(asked: Asked) -> None:
    model, guide = gpu_made.mlp(asked.device, 2, 8)
    svi = SVI(model, guide, check_every=interval("cuda"))
    steps = em(svi, Batches(gpu_made.images(100, asked.device), 10))
    next(steps), next(steps)
    with no_waiting(asked):
        for _ in range(5):
            next(steps)
    svi.check()


def long_training(asked: Asked) -> None:
    r"""60,000 steps of the default convolutional networks on 60,000 images, in batches of 100, compiled on a GPU."""
    total, num = (4, 300) if asked.smoke else (STEPS, STEPS)
    x = gpu_made.images(num, asked.device)
    torch.manual_seed(0)
    model, guide = gpu_made.conv(asked.device)
    began = time.perf_counter()
    compiled = {"compile": asked.on_gpu, "compile_size": BATCH}
    svi = SVI(model, guide, adam(model, guide, lr=1e-3), check_every=interval(asked.device), **compiled)
    steps = em(svi, Batches(x, BATCH))
    first = [next(steps) for _ in range(3)]  # they compile
    asked.wait()
    prepared, began = time.perf_counter() - began, time.perf_counter()
    done, losses = len(first), []
    while done < total and asked.left > 5:
        losses = [next(steps).loss for _ in range(min(200, total - done))]
        done += len(losses)
        asked.wait()
    svi.check()
    seconds = time.perf_counter() - began
    each = seconds / max(1, done - len(first))
    asked.row(
        steps=done,
        seconds=seconds,
        steps_a_second=1 / each,
        seconds_before=prepared,
        loss_first=float(first[0].loss),
        loss_last=float(torch.stack(losses).mean()),
    )
    way = "measured" if done == total else f"extrapolated from {done:,}"
    asked.note(
        f"{total:,} steps of {BATCH} images: {total * each:.1f} s ({way}), and {prepared:.1f} s before to compile."
    )
