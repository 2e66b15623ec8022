r"""The same training step in other libraries, each in its own process, as contenders of `step_price`.

A process makes networks and batches from the seed as `step_price` does, and first shows that its loss at the same
weights and noise is that of the hand-written loop.
"""

import argparse
from importlib.util import find_spec

import measure
import torch

WAYS = {
    "NumPyro, svi.update": ("numpyro", "peer_numpyro.py", "--way=update"),
    "NumPyro, lax.scan": ("numpyro", "peer_numpyro.py", "--way=scan"),
    "Pythae, its trainer": ("pythae", "peer_pythae.py"),
}
CLOSE = 2e-3  # nats per point, of hundreds: sums of float32 in another order


def started(case: str, seed: int, threads: int) -> dict[str, measure.Elsewhere]:
    r"""Returns the peers that are installed, and says which are not."""
    found = {}
    for name, (library, script, *way) in WAYS.items():
        if find_spec(library) is None:
            print(f"{name}: left out, since {library} is not installed: pip install 'pyro_dlgm[bench]'")
        else:
            found[name] = measure.Elsewhere(script, f"--case={case}", f"--seed={seed}", *way, threads=threads)
    return found


def asked() -> argparse.Namespace:
    r"""The command line of a peer's process."""
    parser = argparse.ArgumentParser()
    for name in ("case", "way"):
        parser.add_argument(f"--{name}")
    for name in ("seed", "threads"):
        parser.add_argument(f"--{name}", type=int)
    return parser.parse_args()


def same_start(a: argparse.Namespace):
    r"""Returns the hand-written loop, the batches x (50, B, 1, 28, 28), noise (B, D), and the loss at both."""
    import step_price  # which imports this module

    measure.use_threads(a.threads)
    torch.manual_seed(a.seed)
    model, guide, data = step_price.pair(a.case)
    hand, x = step_price.HandWritten(model, guide), torch.stack([x for x, _ in data])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        loss = float(hand(x[0]))
        torch.manual_seed(1)
        noise = torch.randn(x.shape[1], *model.prior().event_shape)
    return hand, x, noise, loss


def check(found: float, expected: float) -> float:
    r"""Returns the difference to the hand-written loss; raises a `ValueError` if it is more than rounding."""
    if not abs(found - expected) < CLOSE:
        raise ValueError(f"at the same weights and noise its loss is {found}; expected {expected}, as written by hand")
    return found - expected
