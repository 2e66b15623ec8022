r"""Seeds trained at once: how long a step of one takes, and one for 8 and for 64 of them."""

import time
import warnings

import gpu_made
import torch
from gpu_apart import Asked, said

from pyro_dlgm import fit
from pyro_dlgm.training.together import fit_together

NUMBERS, BATCH, BEFORE, STEPS = (1, 8, 64), 128, 10, 100  # the first steps capture, and compare losses


class Clock:
    r"""Creates the listener that times steps, but for the first ones."""

    def __init__(self, asked: Asked, total: int):
        self.asked, self.total, self.seconds = asked, total, 0.0

    def after(self, step, record) -> None:
        r"""Reads the clock after the first steps and after the last one, when the device has done them."""
        if step.step in (BEFORE, self.total):
            self.asked.wait()
            self.seconds = time.perf_counter() - self.seconds


def at_once(asked: Asked) -> None:
    r"""Steps of an MLP of 2x200 units with 50 latents: with `fit`, and with S seeds at once."""
    total = BEFORE + (2 if asked.smoke else STEPS)
    x = gpu_made.images(2 * BATCH if asked.smoke else 60_000, asked.device)
    one = float("nan")
    for num in NUMBERS[:2] if asked.smoke else NUMBERS:
        try:
            seconds = _seconds(asked, num, x, total)
        except Exception as error:
            asked.row(seeds=num, failed=said(error))
            continue
        each = seconds / (total - BEFORE)
        one = each if num == 1 else one
        asked.row(seeds=num, ms_a_step=1e3 * each, of_one=each / one, one_after_the_other=float(num))


def _seconds(asked: Asked, num: int, x: torch.Tensor, total: int) -> float:
    warnings.filterwarnings("error", ".*one after the other.*")
    pairs = []
    for seed in range(num):
        torch.manual_seed(seed)
        pairs.append(gpu_made.mlp(asked.device, 8 if asked.smoke else 50, 16 if asked.smoke else 200))
    clock, how = Clock(asked, total), {"steps": total, "batch_size": BATCH}
    if num == 1:
        fit(*pairs[0], x, seed=0, listeners=[clock], **how)
    else:
        fit_together(pairs, x, seeds=range(num), listeners=lambda n: [clock] if n == num - 1 else [], **how)
    return clock.seconds
