r"""What the package does on a GPU, in at most eight minutes: steps and their price, annealing, tables, resume, PPCA.

It needs torch, torchvision and Pyro, no network, and no data but what it makes; the package is taken from this folder.
Each section is a process with its own time: what fails in one, or takes too long, is written down, and others go on.
"""

import argparse
import sys
import time
from pathlib import Path

import gpu_report

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]  # the package, and the small pairs of the tests

import pyro_dlgm  # noqa: E402

if str(HERE.parents[1]) not in pyro_dlgm.__path__:
    pyro_dlgm.__path__.append(str(HERE.parents[1]))  # guides/ lies beside pyro_dlgm/, if nothing is installed

import gpu_apart  # noqa: E402
import gpu_evidence  # noqa: E402
import gpu_price  # noqa: E402
import gpu_seeds  # noqa: E402
import gpu_steps  # noqa: E402
import gpu_tables  # noqa: E402
import measure  # noqa: E402

# Seconds for each section, 435 in all with those for the device: each may end five seconds late.
SECTIONS = {
    "sync": (gpu_steps.waiting, 40),
    "price": (gpu_price.prices, 115),
    "long": (gpu_steps.long_training, 90),
    "seeds": (gpu_seeds.at_once, 20),
    "evidence": (gpu_evidence.certified, 65),
    "rows": (gpu_tables.rows, 45),
    "resume": (gpu_tables.resumed, 20),
    "ppca": (gpu_tables.ppca, 20),
}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Measures the package on a GPU, and writes gpu.json and the table gpu.md.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu for a trial of the script")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: whether the script works, and no measurement")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="which sections")
    parser.add_argument("--share", type=float, default=1.0, help="factor of the seconds of each section")
    parser.add_argument("--out", default="runs/bench/gpu", help="folder for gpu.json and gpu.md")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> dict:
    r"""Runs the sections, and returns their records by name."""
    a, begun = arguments(given), time.monotonic()
    sections = {"device": (gpu_steps.device, 20)} | {name: SECTIONS[name] for name in a.sections}
    records = {}
    for name, (section, seconds) in sections.items():
        asked = gpu_apart.Asked(a.device, a.smoke, a.share * seconds, str(Path(a.out, f"{name}.json")))
        records[name] = gpu_apart.run(section, asked)
        print(f"{name}: {records[name]['seconds']:.0f} s {records[name].get('error', '')}".strip(), flush=True)
        if name == "device" and "error" in records[name]:
            sys.exit(f"no device {a.device!r} here: {records[name]['error']}")
    total = time.monotonic() - begun
    text = gpu_report.markdown(records, total)
    path = measure.save(a.out, "gpu", protocol=vars(a), seconds=total, sections=records)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten: {path}, {path.with_suffix('.md')}")
    return records


if __name__ == "__main__":
    main()
