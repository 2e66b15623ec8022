r"""Trainings of the factor program, recorded against the exact answers, in a file of lines that a resume reads.

Learning rates fall to 0 as a cosine, as those of `fit`. Seconds are those of the processor, of the steps alone: with
one thread they are those of an undisturbed core, as far as caches and memory are not shared.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from factor_program import best_loadings, log_px, posterior_means, simulated
from factor_ways import WAYS, Way
from torch import Tensor

LOOKS = 40  # at W and z in a training


@dataclass(frozen=True)
class Setting:
    r"""A training: one of `WAYS`, N/B, epochs, learning rates of W and of the rows at the start, and a seed."""

    way: str
    ratio: int
    epochs: int
    lr: float
    row_lr: float
    seed: int = 0


@dataclass(frozen=True)
class Task:
    r"""Training and held-out points, and the best held-out log-likelihood, that of W in closed form."""

    x: Tensor
    held_out: Tensor
    best: float

    @classmethod
    def of(cls, num_points: int) -> "Task":
        r"""The task with so many training points."""
        x, held_out = simulated(num_points)
        return cls(x, held_out, log_px(best_loadings(x), held_out))


def train(task: Task, setting: Setting) -> list[dict]:
    r"""What was reached at each look: epoch, steps, seconds, nats per held-out point below the best, RMSE of z."""
    torch.manual_seed(setting.seed)
    way = WAYS[setting.way](task.x, setting.lr, setting.row_lr, setting.seed)
    N, total, seconds, found = len(task.x), setting.epochs * setting.ratio, 0.0, []
    size, rates = N // setting.ratio, None
    for step in range(total):
        if step % setting.ratio == 0:
            batches = torch.randperm(N).split(size)
        index = batches[step % setting.ratio]
        x = task.x[index]
        begun = time.process_time()
        way.step(x, index)
        seconds += time.process_time() - begun
        rates = rates or [group["lr"] for group in way.groups()]
        for group, rate in zip(way.groups(), rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * (step + 1) / total))
        if (step + 1) % max(1, total // LOOKS) == 0 or step + 1 == total:
            found.append({"epoch": (step + 1) / setting.ratio, "seconds": seconds} | reached(task, way))
    return found


def reached(task: Task, way: Way) -> dict[str, float]:
    r"""What held-out log p(x | W) at the centre of q(W) lacks, and the error of q's means of z given that W."""
    W = way.W()
    if not W.isfinite().all():
        return {"lacks": math.inf, "rmse": math.inf}
    error = way.z() - posterior_means(W, task.x)
    return {"lacks": task.best - log_px(W, task.held_out), "rmse": float(error.square().mean().sqrt())}


class Journal:
    r"""Creates a file of JSON lines, one for each finished training; what is in it is not done again."""

    def __init__(self, path: Path):
        self.path, self.done = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else []:
            entry = json.loads(line)
            self.done[json.dumps(entry["key"])] = entry["value"]

    def get(self, key: dict, make: Callable[[], object]):
        r"""The value under the key; made and written where there is none."""
        name = json.dumps(key)
        if name not in self.done:
            self.done[name] = make()
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "value": self.done[name]}) + "\n")
        return self.done[name]

    def items(self) -> list[tuple[dict, object]]:
        r"""Keys and values."""
        return [(json.loads(name), value) for name, value in self.done.items()]

    def trained(self, task: Task, setting: Setting) -> list[dict]:
        r"""The records of a training, which is made where there is none."""
        return self.get({"N": len(task.x), **asdict(setting)}, lambda: train(task, setting))
