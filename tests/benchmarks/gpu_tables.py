r"""Tables of rows up to 100,000,000 points, a training that resumes, and PPCA."""

import tempfile
import time
from pathlib import Path

import gpu_made
import torch
from gpu_apart import Asked, said

from pyro_dlgm import DLGM, PPCA, SVI, guides, likelihoods, nets, priors
from pyro_dlgm.data.batches import Batches
from pyro_dlgm.optim.nan_guard import interval
from pyro_dlgm.runs import checkpoint
from pyro_dlgm.training.loop import Training

D, PIXELS, BATCH = 10, 64, 128
BYTES = 4 * (3 * 2 * D + 1)  # of a row: m and log s, two moments of each, and its visits


def rows(asked: Asked) -> None:
    r"""A step of `MeanField` with N rows on the device."""
    first = None
    for N in (1_000, 10_000) if asked.smoke else (10**4, 10**6, 10**7, 10**8):
        free = torch.cuda.mem_get_info(asked.device)[0] if asked.on_gpu else 2**33
        if free * 0.9 < BYTES * N or asked.left < 5:
            asked.row(N=N, table_gb=BYTES * N / 1e9, failed=f"{free / 1e9:.1f} GB and {asked.left:.0f} s are left")
            continue
        try:
            first = _table(N, asked, first)
        except Exception as error:
            asked.row(N=N, table_gb=BYTES * N / 1e9, failed=said(error))
        if asked.on_gpu:
            torch.cuda.empty_cache()


def _table(N: int, asked: Asked, first: float | None) -> float:
    began, steps = time.perf_counter(), 3 if asked.smoke else 300
    torch.manual_seed(0)
    with torch.device(asked.device):  # the table is made there
        guide = guides.MeanField(N, D)
        model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.Linear(D, PIXELS)))
        x, index = torch.randn(BATCH, PIXELS), torch.randint(N, (steps, BATCH))
    model, guide = model.to(asked.device), guide.to(asked.device)
    svi = SVI(model, guide, check_every=interval(asked.device))
    for _ in range(3):
        svi.step(x, index[0], size=N, factor=1 / N)
    asked.wait()
    made, began = time.perf_counter() - began, time.perf_counter()
    for some in index:
        svi.step(x, some, size=N, factor=1 / N)
    asked.wait()
    each = (time.perf_counter() - began) / steps
    svi.check()
    first = first or each
    asked.row(N=N, table_gb=BYTES * N / 1e9, ms_a_step=1e3 * each, of_the_smallest=each / first, seconds_before=made)
    return first


def resumed(asked: Asked) -> None:
    r"""A training that stopped half-way and went on from its checkpoint, against one that did not."""
    steps = 6 if asked.smoke else 60
    for name in ("amortized", "mean field"):
        whole = _trained(name, asked, steps)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "checkpoint.pt")
            _trained(name, asked, steps // 2, save=file)
            other = _trained(name, asked, steps, load=file)
        apart = max(float((a - b).abs().max()) for a, b in zip(whole, other, strict=True))
        same = all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))
        asked.row(guide=name, steps=steps, bit_for_bit="yes" if same else "no", largest_difference=apart)


def _trained(name: str, asked: Asked, until: int, save: Path | None = None, load: Path | None = None) -> list:
    torch.manual_seed(0 if load is None else 1)  # a run that goes on has the numbers of its checkpoint
    x = gpu_made.images(200, asked.device)
    model, guide = gpu_made.mlp(asked.device, 4, 32)
    guide = guides.MeanField(len(x), 4).to(asked.device) if name == "mean field" else guide
    svi = SVI(model, guide, check_every=interval(asked.device))
    training = Training(svi, Batches(x, 30), 10**6)
    if load is not None:
        training.load_state_dict(checkpoint.read(load))
    for step, _ in training:
        if step.step == until:
            break
    if save is not None:
        checkpoint.write(save, training.state_dict())
    return [v.detach().clone() for m in (model, guide) for v in (*m.parameters(), *m.buffers())]


def ppca(asked: Asked) -> None:
    r"""The closed form on data of a linear model, and its mean evidence."""
    P, latents, sigma = (20, 3, 0.5) if asked.smoke else (784, 32, 0.5)
    for N in (500, 2_000) if asked.smoke else (70_000, 1_000_000):
        try:
            _fitted(N, P, latents, sigma, asked)
        except Exception as error:
            asked.row(N=N, P=P, D=latents, failed=said(error))


def _fitted(N: int, P: int, latents: int, sigma: float, asked: Asked) -> None:
    with torch.device(asked.device):
        generator = torch.Generator(asked.device).manual_seed(0)
        W = torch.randn(latents, P, generator=generator)
        X = torch.empty(N, P)
        for some in X.split(50_000):
            t, noise = (torch.randn(len(some), k, generator=generator) for k in (latents, P))
            some.copy_(t @ W + sigma * noise)
    asked.wait()
    began = time.perf_counter()
    model = PPCA.fit(X, latents)
    asked.wait()
    seconds, began = time.perf_counter() - began, time.perf_counter()
    evidence = sum(float(model.log_prob(some).detach().double().sum()) for some in X.split(50_000)) / N
    asked.row(
        N=N,
        P=P,
        D=latents,
        seconds=seconds,
        sigma2=float(model.sigma2),
        sigma2_of_the_data=sigma**2,
        log_px=evidence,
        seconds_log_px=time.perf_counter() - began,
    )
