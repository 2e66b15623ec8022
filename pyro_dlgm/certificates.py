r"""What ``pyro-dlgm evaluate --ais --gaps`` writes of a run: log p(x) with its certificate, and the gap taken apart."""

import torch
from torch import Tensor

from . import evaluate
from .certify import NO_DENSITY, Certify
from .data.dataset import Dataset
from .data.transforms import seeded
from .evaluate.decomposition import Estimate
from .guides.per_point import FullRank
from .scores import e_step
from .seeding import forked

GAPS = {"approximation": "approximation gap", "amortization": "amortization gap", "total": "KL(q || posterior)"}


def sections(model, guide, dataset: Dataset, certify: Certify, seed: int, *, progress: bool) -> dict[str, dict]:
    r"""Sections of ``evaluation.json``: "train_gaps" and "test_gaps" if asked for, or "test_ais" alone."""
    dense = getattr(guide, "has_density", True)
    if certify.gaps and dense:
        return gaps(model, guide, dataset, certify, seed, progress=progress)
    x = dataset.test[: certify.points].to(next(model.parameters()).device)
    result = log_px(model, x, certify, seed, progress=progress)
    return {"test_ais": result | ({"reasons": {"gaps": NO_DENSITY}} if certify.gaps else {})}


def log_px(model, x: Tensor, certify: Certify, seed: int, *, progress: bool) -> dict:
    r"""log p(x) of points x (B, ...) by AIS from a full-rank E-step, and BDMC, as plain values.

    It does not depend on the guide of the run.
    """
    with forked(seed):
        judge = FullRank(len(x), model.prior.latent_dim, latent=model.latent, plate=model.plate).to(x)
    judge = e_step(model, judge, x, seed)
    settings = {"num_chains": certify.num_chains, "num_temperatures": certify.num_temperatures, "seed": seed}
    walks = evaluate.ais(model, judge, x, torch.arange(len(x), device=x.device), progress=progress, **settings)
    bounds = evaluate.bdmc(model, judge, certify.points, progress=progress, **settings)
    result = {"log_px": Estimate(walks.log_px, walks.stderr).summary(), "points": len(x)}
    result["bdmc"] = {"gap": bounds.gap, "standard_error": bounds.stderr}
    return result | {"divergences": int(walks.divergences.sum())} | settings


def gaps(model, guide, dataset: Dataset, certify: Certify, seed: int, *, progress: bool) -> dict:
    r"""The gap of a run on its first training and test points, "train_gaps" and "test_gaps", as plain values.

    A guide with rows for training points gets rows for test points by an E-step there; BDMC is measured once.
    """
    x = _training_points(dataset, certify.points).to(next(model.parameters()).device)
    test, rows = dataset.test[: certify.points].to(x), torch.arange(certify.points, device=x.device)
    q = e_step(model, guide, test, seed) if getattr(guide, "per_point", False) else guide
    settings = {"num_chains": certify.num_chains, "num_temperatures": certify.num_temperatures, "seed": seed}
    settings |= {"families": ("full_rank",), "num_samples": certify.num_samples, "progress": progress}
    found = {"train": evaluate.gaps(model, guide, x, rows[: len(x)], num_simulated=0, **settings)}
    found["test"] = evaluate.gaps(model, q, test, rows[: len(test)], num_simulated=certify.points, **settings)
    return {f"{part}_gaps": result.summary() | {"seed": seed} for part, result in found.items()}


def _training_points(dataset: Dataset, num: int) -> Tensor:
    v = dataset.train[:num]
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
    if result["total"]["mean"] <= max(0.1, 2 * (result["total"]["standard_error"] or 0)):
        return "q is the posterior, as far as this tells."
    if abs(family["mean"] - parameters["mean"]) <= error:
        return "family and parameters lose about the same: look at both."
    if family["mean"] > parameters["mean"]:
        return f"the family ({result['own_family']}) loses most: a richer q would gain most."
    return "the parameters of q lose most: a better encoder, or a longer E-step, would gain most."
