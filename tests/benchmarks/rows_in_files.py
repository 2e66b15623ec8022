r"""A table of rows that is larger than memory, trained at the rate of the disk, killed, and resumed exactly."""

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
import numpy as np
import torch

from pyro_dlgm import DLGM, fit, guides, likelihoods, nets, priors
from pyro_dlgm.storage.row_files import BLOCK
from pyro_dlgm.training import autosave

COLUMNS = 4
PART = 2**30  # bytes of the file that shows what the disk can do


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Trains guides.MeanField(N, D, folder=...) by `fit` on a memory map of x, on disk, and reports "
        "points a second, memory, what was read and written, and what the disk gives to plain reads and writes of the "
        "same blocks. Then trains two times from the same rows, once killed and resumed, and compares all files. Needs "
        "N (24 D + 20) bytes of disk, 26 GB for 1e8 rows of 10 latents; they are deleted at the end.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--points", type=float, default=1e8, help="the number N of rows")
    parser.add_argument("--latents", type=int, default=10, help="the number D of latents")
    parser.add_argument("--batch", type=int, default=10_000, help="points in a batch")
    parser.add_argument("--passes", type=float, default=1.2, help="passes of the training that is timed")
    parser.add_argument("--kills", type=int, default=3, help="kills of the training that is resumed")
    parser.add_argument("--steps", type=int, default=300, help="steps of that training")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--folder", default="runs/rows", help="where the files are for a while; it must not exist")
    parser.add_argument("--out", default="runs/bench", help="folder for rows_in_files.json")
    parser.add_argument("--every", type=float, default=10.0, help="seconds from one checkpoint to the next")
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def pair(a: argparse.Namespace, folder: Path):
    r"""A linear decoder, and rows in files."""
    torch.manual_seed(0)
    model = DLGM(priors.StandardNormal(a.latents), likelihoods.FixedNormal(nets.Linear(a.latents, COLUMNS)))
    return model, guides.MeanField(int(a.points), a.latents, folder=folder)


def data(a: argparse.Namespace) -> np.memmap:
    r"""x (N, 4), written block by block where it is not there."""
    file, shape = Path(a.folder) / "x.npy", (int(a.points), COLUMNS)
    if not file.exists():
        x, draw = np.lib.format.open_memmap(file, "w+", np.float32, shape), np.random.default_rng(0)
        for first in range(0, shape[0], BLOCK):
            x[first : first + BLOCK] = draw.standard_normal(x[first : first + BLOCK].shape, dtype=np.float32)
    return np.lib.format.open_memmap(file, "r")


class Says:
    r"""Creates the listener that says each step, with the seconds, bytes and memory of the process so far."""

    def after(self, step, record) -> None:
        r"""Prints them."""
        io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        memory = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        said = {"step": step.step, "time": time.monotonic(), "read": int(io["read_bytes"])}
        said |= {"written": int(io["write_bytes"]) - int(io["cancelled_write_bytes"])}
        said |= {name: int(memory[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}
        print(json.dumps(said), flush=True)


def train(a: argparse.Namespace) -> None:
    r"""What the processes do: a training on disk, begun or resumed."""
    out, steps, autosave.EVERY = Path(a.train[0]), int(a.train[1]), a.every
    model, guide = pair(a, out)
    settings = {"batch_size": a.batch, "schedule": "constant", "seed": 1, "out": out, "resume": True}
    fit(model, guide, data(a), steps=steps, listeners=[Says()], **settings)


def run(a: argparse.Namespace, out: Path, steps: int, until: int | None = None) -> list[dict]:
    r"""What a training in a process of its own said; it is killed after the step ``until``."""
    same = [f"--{name}={getattr(a, name)}" for name in ("points", "latents", "batch", "threads", "folder", "every")]
    command, said = [sys.executable, __file__, *same, "--train", str(out), str(steps)], []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            said.append(json.loads(line))
            if said[-1]["step"] == until:
                time.sleep(random.random() * 0.02)
                process.kill()
    return said


def plain_rates(a: argparse.Namespace, width: int) -> dict[str, float]:
    r"""MB/s of plain writes (to the disk, flushed) and reads (of what is in no cache) of blocks in shuffled order."""
    file, size = Path(a.folder) / "plain", BLOCK * width
    places = random.Random(0).sample(range(PART // size), PART // size)
    content, rates = os.urandom(size), {}
    with file.open("wb", buffering=0) as stream:
        start = time.monotonic()
        for place in places:
            os.pwrite(stream.fileno(), content, place * size)
        os.fsync(stream.fileno())
        rates["write"] = len(places) * size / 1e6 / (time.monotonic() - start)
    with file.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.monotonic()
        for place in places:
            os.pread(stream.fileno(), size, place * size)
        rates["read"] = len(places) * size / 1e6 / (time.monotonic() - start)
    file.unlink()
    return rates


def hashes(out: Path) -> dict[str, str]:
    r"""A hash of each file of rows."""
    files = {name: out / f"rows.{name}" for name in ("weight", "visits", "exp_avg", "exp_avg_sq")}
    found = {}
    for name, file in files.items():
        with file.open("rb") as stream:
            found[name] = hashlib.file_digest(stream, "blake2b").hexdigest()
    return found


def timed(a: argparse.Namespace) -> dict:
    r"""A training of some passes: rates of its first pass and of what comes after it, and memory."""
    out, per_pass = Path(a.folder) / "timed", -(-int(a.points) // a.batch)
    start = time.monotonic()
    said = run(a, out, round(a.passes * per_pass))
    result = {"seconds": time.monotonic() - start, "seconds_to_the_first_step": said[0]["time"] - start}
    parts = {"first pass": said[:per_pass], "later": said[per_pass:]}
    for name, part in parts.items():
        if len(part) > 1:
            seconds, first, last = part[-1]["time"] - part[0]["time"], part[0], part[-1]
            points = (len(part) - 1) * a.batch
            result[name] = {
                "points_per_second": points / seconds,
                "row_mb_per_second": points * 4 * (6 * a.latents + 1) / 1e6 / seconds,
                "read_mb_per_second": (last["read"] - first["read"]) / 1e6 / seconds,
                "written_mb_per_second": (last["written"] - first["written"]) / 1e6 / seconds,
            }
    result["checkpoint_bytes"] = (out / "checkpoint.pt").stat().st_size
    for name in ("RssAnon", "RssFile"):
        result[f"{name}_mb"] = [statistics.median(s[name] for s in said) / 1e6, max(s[name] for s in said) / 1e6]
    shutil.rmtree(out)
    return result


def killed(a: argparse.Namespace) -> dict:
    r"""Whether a training that is killed and resumed ends with the rows of one that is not."""
    out = Path(a.folder) / "killed"
    a.every = 1.0  # so that some of the kills come after a checkpoint
    moments = sorted(random.Random(1).sample(range(2, a.steps - 1), a.kills))
    found = []
    for kills in ([], moments):
        kept = []
        for until in (*kills, None):
            kept.append(run(a, out, a.steps, until)[0]["step"] - 1)
        found.append(hashes(out))
        shutil.rmtree(out)
    return {"killed_after": moments, "went_on_from": kept, "same": found[0] == found[1]}


def main() -> None:
    a = arguments()
    measure.use_threads(a.threads)
    if a.train:
        return train(a)
    folder, row = Path(a.folder), 4 * (6 * a.latents + 1)
    needed, free = a.points * (row + 4 * COLUMNS), shutil.disk_usage(folder.parent).free
    if free < 1.2 * needed:
        sys.exit(f"{folder.parent} has {free / 1e9:.0f} GB free; expected {1.2 * needed / 1e9:.0f} GB")
    folder.mkdir()
    try:
        result = {"load": os.getloadavg(), "plain": plain_rates(a, 8 * a.latents), "table_gb": a.points * row / 1e9}
        data(a)
        result["timed"] = timed(a)
        result["plain_after"] = plain_rates(a, 8 * a.latents)
        print(json.dumps(result, indent=1), flush=True)
        result["killed"] = killed(a) if a.kills else None
        print(json.dumps(result["killed"]), "load", os.getloadavg())
        print("written:", measure.save(a.out, "rows_in_files", seed=0, protocol=vars(a), result=result))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
