r"""log p(x) of many images, certified by bidirectional Monte Carlo, as far as the time goes."""

import math
import time
import warnings

import gpu_made
import torch
from gpu_apart import Asked

from pyro_dlgm import evaluate, fit

IMAGES, BLOCK, CHAINS, TEMPERATURES, SIMULATED = 10_000, 1_000, 4, 200, 64


def certified(asked: Asked) -> None:
    r"""Trains a VAE for a moment, then anneals block after block of new images until the time is over."""
    warnings.filterwarnings("ignore")
    total, block, T, M = (20, 10, 4, 4) if asked.smoke else (IMAGES, BLOCK, TEMPERATURES, SIMULATED)
    torch.manual_seed(0)
    model, guide = gpu_made.mlp(asked.device, *((2, 8) if asked.smoke else (10, 200)))
    x = gpu_made.images(total if asked.smoke else 20_000, asked.device)
    fit(model, guide, x, steps=5 if asked.smoke else 3_000, batch_size=min(200, len(x)), seed=0)
    settings = {"num_chains": CHAINS, "num_temperatures": T, "memory": 2**33 if asked.on_gpu else 2**28}
    began = time.perf_counter()
    bounds = evaluate.bdmc(model, guide, M, seed=1, **settings)
    asked.note(
        f"BDMC on {M} simulated images, {CHAINS} chains, {T} temperatures: gap {bounds.gap:.3f} ± {bounds.stderr:.3f} "
        f"nats per image, {time.perf_counter() - began:.1f} s."
    )
    found, took = [], []
    for k, some in enumerate(gpu_made.images(total, asked.device, seed=3).split(block)):
        if took and asked.left < 1.3 * max(took) + 3:
            break
        began = time.perf_counter()
        found.append(evaluate.ais(model, guide, some, seed=k, **settings).log_px)
        asked.wait()
        took.append(time.perf_counter() - began)
    log_px = torch.cat(found).double()
    error = float(log_px.std()) / math.sqrt(len(log_px))
    asked.row(images=len(log_px), of=total, log_px=float(log_px.mean()), stderr=error, seconds=sum(took))
    whole = "measured" if len(log_px) == total else f"extrapolated from {len(log_px):,}"
    asked.note(f"{total:,} images: {total * sum(took) / len(log_px):.1f} s ({whole}).")
