r"""Kills trainings at random moments, resumes each, and compares it with trainings that nobody disturbed."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import killing


def arguments() -> argparse.Namespace:
    r"""The command line."""
    parser = argparse.ArgumentParser(
        description="Sends SIGKILL to a training at random moments and resumes it each time. At the end its weights, "
        "records and TensorBoard steps must be those of a training that nobody disturbed, bit for bit. One line a "
        "guide; the exit status is 1 if one of them is not.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--guides", nargs="+", choices=killing.KINDS, default=list(killing.KINDS), help="which guides")
    parser.add_argument("--kills", type=int, default=20, help="kills of each training")
    parser.add_argument("--epochs", type=int, default=200, help=f"epochs of {killing.BATCHES} steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    return parser.parse_args()


def main() -> None:
    a = arguments()
    torch.set_num_threads(1)
    wrong = False
    for kind in a.guides:
        shown = ", ".join(
            f"{step} + {1e3 * delay:.1f} ms" for step, delay in killing.moments(kind, a.kills, a.epochs, a.seed)
        )
        with tempfile.TemporaryDirectory() as folder:
            found = killing.faults(kind, Path(folder), a.kills, a.epochs, a.seed)
        print(
            f"{kind}: {a.kills} kills, {'; '.join(found) or 'bit for bit the same'} (after steps {shown})", flush=True
        )
        wrong |= bool(found)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
