r"""What ``pyro-dlgm evaluate --ais --gaps`` writes of a run: log p(x) with its certificate, and the gap taken apart."""

import torch
from torch import Tensor

from .. import evaluate
from ..data.dataset import Dataset
from ..data.transforms import seeded
from .certify import NO_DENSITY, Certify
from .pair import e_step, full_rank

GAPS = {"approximation": "approximation gap", "amortization": "amortization gap", "total": "KL(q || posterior)"}


def sections(
    model, guide, dataset: Dataset, certify: Certify, seed: int, *, objective: str = "ELBO", progress: bool
) -> dict[str, dict]:
    r"""Sections of ``evaluation.json``: "train_gaps" and "test_gaps" if asked for, or "test_ais" alone.

    Arguments:
        model, guide: of the run.
        dataset: whose first points are taken.
        certify: how.
        seed: of all that is random.
        objective: what the guide was trained on.
        progress: whether annealing shows a bar.
    """
    if certify.gaps and getattr(guide, "has_density", True):
        return gaps(model, guide, dataset, certify, seed, objective=objective, progress=progress)
    x = dataset.test[: certify.points].to(next(model.parameters()).device)
    result = log_px(model, x, certify, seed, progress=progress)
    return {"test_ais": result | ({"reasons": {"gaps": NO_DENSITY}} if certify.gaps else {})}


def log_px(model, x: Tensor, certify: Certify, seed: int, *, progress: bool) -> dict:
    r"""log p(x) of points x (B, ...) by AIS from a full-rank E-step, and BDMC, as plain values.

    It does not depend on the guide of the run.
    """
    judge = full_rank(model, x, seed)
    settings = certify.settings(seed, progress=progress)
    found = evaluate.evidence(model, judge, x, **settings).summary()
    found["unconverged"] = int((~judge.convergence.converged).sum())
    return found | _kept(settings)


def gaps(
    model, guide, dataset: Dataset, certify: Certify, seed: int, *, objective: str = "ELBO", progress: bool
) -> dict:
    r"""The gap of a run on its first training and test points, "train_gaps" and "test_gaps", as plain values.

    A guide with rows for training points gets rows for test points by an E-step there; BDMC is measured once.
    """
    x = _training_points(dataset, certify.points).to(next(model.parameters()).device)
    test, rows = dataset.test[: certify.points].to(x), torch.arange(certify.points, device=x.device)
    q = e_step(model, guide, test, seed) if getattr(guide, "per_point", False) else guide
    settings = certify.settings(seed, progress=progress)
    how = settings | {"families": ("full_rank",), "objective": objective}
    found = {"train": evaluate.gaps(model, guide, x, rows[: len(x)], **how | {"num_simulated": 0})}
    found["test"] = evaluate.gaps(model, q, test, rows[: len(test)], **how)
    return {f"{part}_gaps": result.summary() | _kept(settings) for part, result in found.items()}


def _kept(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name not in ("progress", "num_simulated")}


def _training_points(dataset: Dataset, num: int) -> Tensor:
    v = dataset.train[torch.arange(min(num, len(dataset.train)))]  # images that stay in files are read by index
    return v if dataset.transform is None else seeded(dataset.transform, v, 0)


def lines(found: dict[str, dict]) -> list[str]:
    r"""The sections as lines to read, in nats per point."""
    said = []
    for name, section in found.items():
        part = name.partition("_")[0]
        said.append(_log_px(part, section))
        said += _gap_lines(part, section) if "total" in section else []
        said += [f"No {what}: {reason}." for what, reason in section.get("reasons", {}).items()]
    return said


def _gap_lines(part: str, result: dict) -> list[str]:
    said = [f"{part:6} {title:18} {_value(result[name])}" for name, title in GAPS.items()]
    notes = [f"{part:6} note: {note}." for note in result["notes"] if "BDMC" not in note]
    return [*said, f"{part:6} {_verdict(result)}", *notes]


def _log_px(part: str, result: dict) -> str:
    certificate = result.get("bdmc")
    tail = "" if certificate is None else f", BDMC gap {certificate['gap']:.3f} ± {certificate['standard_error']:.3f}"
    return f"{part:6} {'log p(x)':18} {_value(result['log_px'])} over {result['points']} points{tail}"


def _value(estimate: dict) -> str:
    error = estimate["standard_error"]
    return f"{estimate['mean']:9.2f}" + ("" if error is None else f" ± {error:.2f}")


def _verdict(result: dict) -> str:
    r"""Which part of the gap is the larger, if the errors allow to say so."""
    family, parameters = result["approximation"], result["amortization"]
    error = (family["standard_error"] or 0) + (parameters["standard_error"] or 0)
    # KL(q || posterior) is never negative: how much it varies over points says nothing of whether it is zero.
    if result["total"]["mean"] <= max(0.1, 2 * (result["total"]["monte_carlo_error"] or 0)):
        return "q is the posterior, as far as this tells."
    if abs(family["mean"] - parameters["mean"]) <= error:
        return "family and parameters lose about the same: look at both."
    if family["mean"] > parameters["mean"]:
        return f"the family ({result['own_family']}) loses most: a richer q would gain most."
    return "the parameters of q lose most: a better encoder, or a longer E-step, would gain most."
