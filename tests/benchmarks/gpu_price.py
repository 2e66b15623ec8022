r"""One step against a hand-written loop: eager, compiled, as a CUDA graph; with networks in float32 and bfloat16."""

import statistics
import time
import warnings

import measure
import step_price
import torch
from gpu_apart import Asked, said
from step_price import COMPILED, HAND, NUM_POINTS, OURS

from pyro_dlgm import SVI
from pyro_dlgm.optim.compiled.batch_loss import Arguments
from pyro_dlgm.optim.svi import adam

PUBLISHED = 4_700  # steps a second of a 2x200 VAE in JAX on an accelerator: 3,000,000 in 10 min 39 s
WARM_UP, STEPS, ROUNDS, SMOKE = 20, 200, 15, 1


def prices(asked: Asked) -> None:
    r"""Both cases of `step_price`, in turns of short rounds until the time is over; CUDA graphs come last."""
    warnings.filterwarnings("ignore")
    backend = "inductor" if asked.on_gpu else "eager"
    for place, case in enumerate(step_price.CASES):
        after = asked.left * (1 - place) / 2  # for the other case
        torch.manual_seed(0)
        compiled = False if asked.smoke and case == "conv" else backend
        made = step_price.contenders(case, asked.device, compiled, stock=asked.on_gpu)
        _measured(case, made, asked, after + (asked.left - after) / 3)
        if asked.on_gpu:
            _measured(case, {HAND: made[HAND]} | _graphs(case, asked), asked, after, but=HAND)
    asked.note(f"For comparison: about {PUBLISHED:,} steps a second, a JAX loop of a 2x200 VAE on an accelerator.")


def _measured(case: str, made: dict, asked: Asked, reserve: float, but: str | None = None) -> None:
    r"""Measures steps until ``reserve`` seconds are left, and keeps their rows, except that of ``but``."""
    ready = _ready(case, made, asked)
    seconds = _rounds({name: step for name, (step, _) in ready.items()}, asked, reserve)
    for name in (name for name in seconds if name != but):
        q, median = measure.ratio(seconds[name], seconds[HAND]), statistics.median(seconds[name])
        spread = f"{q['median']:.3g} ({q['lower_quartile']:.3g} to {q['upper_quartile']:.3g})"
        row = {"case": case, "step": name, "ms": 1e3 * median, "of_hand_written": spread}
        asked.row(**row, steps_a_second=1 / median, seconds_before=ready[name][1])


def _ready(case: str, made: dict, asked: Asked) -> dict[str, tuple[measure.Step, float]]:
    r"""Returns the steps that work, after their first ones, and the seconds that these took."""
    found = {}
    for name, step in made.items():
        began = time.perf_counter()
        try:
            for _ in range(SMOKE if asked.smoke else WARM_UP):
                step()
            asked.wait()
            found[name] = step, time.perf_counter() - began
        except Exception as error:
            asked.row(case=case, step=name, failed=said(error))
    return found


def _rounds(ready: dict[str, measure.Step], asked: Asked, reserve: float) -> dict[str, list[float]]:
    found, steps = {name: [] for name in ready}, SMOKE if asked.smoke else STEPS
    while not found[HAND] or (asked.left > reserve + 5 and len(found[HAND]) < ROUNDS and not asked.smoke):
        for name, values in measure.rounds(ready, num_rounds=1, steps=steps, warmup=0, wait=asked.wait).items():
            found[name] += values
    return found


def _graphs(case: str, asked: Asked) -> dict[str, measure.Step]:
    r"""The same steps as CUDA graphs, by name; those that cannot be recorded are left out with the reason."""
    ways = {"hand-written": _hand, OURS: _eager, COMPILED: _compiled, f"{COMPILED}, bf16": _compiled_bf16}
    found = {}
    for name, way in ways.items():
        try:
            found[f"{name}, CUDA graph"] = way(case, asked.device)
        except Exception as error:
            asked.row(case=case, step=f"{name}, CUDA graph", failed=said(error))
    return found


def graph(step, data: list[tuple], held: tuple) -> measure.Step:
    r"""Returns the step recorded as a CUDA graph, on the tensors ``held``, into which each batch is copied."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step()

    def replay(*batch) -> None:
        for old, new in zip(held, batch, strict=True):
            old.copy_(new)
        recorded.replay()

    return step_price.on(data, replay)


def _capturable(optimizers) -> list:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["capturable"] = True
    return optimizers


def _hand(case: str, device: str) -> measure.Step:
    model, guide, data = step_price.pair(case, device)
    hand, held = step_price.HandWritten(model, guide), tuple(v.clone() for v in data[0])
    _capturable([hand.optimizer])
    return graph(lambda: hand.step(held[0]), data, held)


def _eager(case: str, device: str) -> measure.Step:
    model, guide, data = step_price.pair(case, device)
    svi, held = SVI(model, guide, _capturable(adam(model, guide, lr=step_price.LR))), tuple(v.clone() for v in data[0])
    return graph(lambda: svi.step(*held, mask=None, size=NUM_POINTS, factor=1 / NUM_POINTS), data, held)


def _compiled(case: str, device: str, precision: str | None = None) -> measure.Step:
    model, guide, data = step_price.pair(case, device)
    svi = SVI(model, guide, adam(model, guide, lr=step_price.LR), compile=True, precision=precision)
    held, keywords = tuple(v.clone() for v in data[0]), {"mask": None, "size": NUM_POINTS}
    for _ in range(3):
        svi.step(*held, **keywords, factor=1 / NUM_POINTS)
    (compared,) = svi.compiler.steps.values()
    if compared is None:
        raise RuntimeError("the step was not compiled")
    batch = Arguments(held, keywords, 1 / NUM_POINTS, [], None)
    return graph(lambda: compared.step(batch, compared.step.captured.noise()), data, held)


def _compiled_bf16(case: str, device: str) -> measure.Step:
    return _compiled(case, device, "bf16")
