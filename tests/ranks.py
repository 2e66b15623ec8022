r"""Functions that run in several processes at once, each in torch's process group, and what they return."""

import multiprocessing
import traceback
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")  # its server imports once what all processes need
CONTEXT.set_forkserver_preload(["pyro_dlgm.training.session", "pyro_dlgm.training.tensorboard", "pyro_dlgm.guides"])
WAIT = 120  # seconds after which a test gives up


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
