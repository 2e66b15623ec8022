r"""How the benchmarks measure: contenders take turns in short rounds, and medians over the rounds are compared.

On a machine that is not quiet all contenders of a round see about the same disturbance; so ratios are taken round by
round, and their median and quartiles are reported.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import torch

Step = Callable[[], object]  # or `Elsewhere`


class Elsewhere:
    r"""Creates a contender in another process, started now: it takes steps when it is asked to, and measures them.

    Arguments:
        script: a file of this folder that ends in `serve`.
        arguments: those of its command line.

    Attributes:
        said: what it said first.
        loss: the loss of the last step, in nats per point.

    Raises:
        RuntimeError: if the process ends.
    """

    def __init__(self, script: str, *arguments: str, threads: int):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        command = [sys.executable, str(Path(__file__).with_name(script)), *arguments, f"--threads={threads}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=os.environ | limits, **pipes)
        self.loss, self.said = math.nan, self._answer()

    def seconds(self, steps: int) -> float:
        r"""Returns the seconds per step, over ``steps`` of them."""
        print(steps, file=self.process.stdin, flush=True)
        answer = self._answer()
        self.loss = answer["loss"]
        return answer["seconds"] / max(1, steps)

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args[1]} ended with {self.process.wait()}; what it wrote is above")
        return json.loads(line)

    def end(self) -> None:
        r"""Ends the process."""
        self.process.communicate()


def serve(steps: Callable[[int], float], **said) -> None:
    r"""Takes steps for `Elsewhere`; ``steps(n)`` takes n and returns the loss of the last, in nats per point."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    print(json.dumps(said), file=answers, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        loss = steps(int(line))
        print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), file=answers, flush=True)


def machine() -> dict:
    r"""What the numbers were measured on."""
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }


def cpu() -> str:
    r"""The model name of the processor, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def use_threads(count: int | None) -> None:
    r"""Lets torch compute on so many threads. On a machine that others use, fewer threads disturb a ratio less."""
    if count is not None:
        torch.set_num_threads(count)


def rounds(
    contenders: dict[str, Step], *, num_rounds: int, steps: int, warmup: int, wait: Step = lambda: None
) -> dict[str, list[float]]:
    r"""Seconds per step of each contender in each round; they take turns, every other round in reverse order.

    ``wait`` returns when the device has done what it was given.
    """
    for step in contenders.values():
        seconds(step, warmup)
    measured = {name: [] for name in contenders}
    for r in range(num_rounds):
        for name in list(contenders)[:: 1 if r % 2 == 0 else -1]:
            measured[name].append(seconds(contenders[name], steps, wait))
    return measured


def seconds(step: Step, steps: int, wait: Step = lambda: None) -> float:
    r"""Wall-clock seconds per step, over ``steps`` of them."""
    if isinstance(step, Elsewhere):
        return step.seconds(steps)
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return (time.perf_counter() - start) / max(1, steps)


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    r"""Median and quartiles over rounds of ours / theirs."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def table(measured: dict[str, list[float]], against: str, first: dict[str, float] | None = None) -> str:
    r"""One line a contender: milliseconds per step, the ratio to ``against``, and ``first``: seconds of one step."""
    width = max(map(len, measured))
    lines = [f"{'':{width}}  ms/step   ratio to {against} (quartiles over rounds)" + "   first step, s" * bool(first)]
    for name, values in measured.items():
        q = ratio(values, measured[against])
        spread = f"{q['median']:7.3g}   ({q['lower_quartile']:.3g} .. {q['upper_quartile']:.3g})"
        begun = f"   {first[name]:10.3f}" if first else ""
        lines.append(f"{name:{width}}  {1e3 * statistics.median(values):7.3f}   {spread}{begun}")
    return "\n".join(lines)


def save(folder: str, name: str, **record) -> Path:
    r"""Writes a result with the machine it was measured on as ``folder/name.json``."""
    path = Path(folder) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), **record}, indent=2) + "\n")
    return path
