r"""A walk as data: the files of the package whose functions one step of `fit`, and one row of `compare`, call."""

import argparse
import sys
import threading
from pathlib import Path

import torch

import pyro_dlgm
from pyro_dlgm import DLGM, compare, fit, guides, likelihoods, nets, priors

N, D, P = 40, 2, 6


def pair():
    r"""A small model with an amortized guide."""
    model = DLGM(priors.StandardNormal(D), likelihoods.FixedNormal(nets.MLP(D, P, (8,)), 0.5))
    return model, guides.Amortized(nets.MLP(P, 8, (8,)), D)


class Walk:
    r"""Creates the record of the files of the package that are passed inside."""

    def __init__(self):
        roots = {Path(module.__file__).parent for module in (pyro_dlgm, guides)}
        self.roots, self.files = tuple(map(str, sorted(roots))), []

    def __enter__(self):
        threading.setprofile(self._call)
        sys.setprofile(self._call)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)

    def _call(self, frame, event, _):
        file = frame.f_code.co_filename
        # Faces and bodies of modules are passed at import, once.
        inside = event == "call" and file.startswith(self.roots) and frame.f_code.co_name != "<module>"
        if inside and file not in self.files and not file.endswith("__init__.py"):
            self.files.append(file)


def step() -> list[str]:
    r"""Files that one step of `fit` passes, from the call to the result."""
    model, guide = pair()
    fit(model, guide, torch.randn(N, P), steps=1, batch_size=N, seed=0)  # imports, and Pyro's first-step checks
    with Walk() as walk:
        fit(model, guide, torch.randn(N, P), steps=1, batch_size=N, seed=0)
    return walk.files


def row() -> list[str]:
    r"""Files that one row of `compare` passes."""
    x = torch.randn(N, P)
    arguments = (lambda: pair()[0], {"amortized": lambda model, num: pair()[1]}, x, x[:10])
    compare(*arguments, gradients=1, num_samples=25)
    with Walk() as walk:
        compare(*arguments, gradients=1, num_samples=25)
    return walk.files


def main() -> None:
    r"""Prints the files, in the order in which they are first passed."""
    parser = argparse.ArgumentParser(description="Print the files that one step of fit and one row of compare pass.")
    parser.parse_args()
    for name, files in (("one step of fit", step()), ("one row of compare", row())):
        print(f"{name}: {len(files)} files")
        for file in files:
            print("   ", Path(*Path(file).parts[-3:]))


if __name__ == "__main__":
    main()
