r"""log p(x) certified, and the inference gap taken apart: in a comparison, and of a run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.dataset import Dataset
from ..data.transforms import seeded
from ..evaluate import inference_gap
from ..evaluate.marginal.estimate import check, evidence
from ..guides.base import adapted
from .pair import e_step, full_rank
from .row import NO_GAP

TITLES = {"approximation": "approximation gap", "amortization": "amortization gap", "total": "KL(q || posterior)"}


@dataclass(frozen=True)
class Certify:
    r"""Creates what certifies the rows of `compare`.

    log p(x) has one estimator in all rows, so that it scores w apart from q: AIS from a full-rank E-step on the test
    points, or IWAE with it, whichever has the larger mean (`evaluate.evidence`).

    Attributes:
        gaps: whether log p(x) − F(q) is also taken apart.
        points: how many test points, the first ones; as many are simulated for BDMC.
        num_chains, num_temperatures: of `evaluate.ais`.
        num_samples: the number K of samples of F(q), F(q*) and IWAE-K.
    """

    gaps: bool = False
    points: int = 64
    num_chains: int = 4
    num_temperatures: int = 200
    num_samples: int = 2000

    def __post_init__(self):
        if self.points < 2:
            raise ValueError(f"points is {self.points}; expected at least 2 points to certify")
        check(self.num_samples, self.num_chains, self.num_temperatures, self.points)

    def settings(self, seed: int, *, progress: bool) -> dict:
        r"""The arguments of `evaluate.evidence` of the same names."""
        settings = {"num_samples": self.num_samples, "num_chains": self.num_chains, "seed": seed, "progress": progress}
        return settings | {"num_temperatures": self.num_temperatures, "num_simulated": self.points}

    def __call__(self, model, q, judge, x: Tensor, seed: int, *, progress: bool = False) -> dict:
        r"""Computes the summary of `evaluate.gaps`; without gaps, or where q has none, that of `evaluate.evidence`.

        Arguments:
            model: a `DLGM`.
            q: its guide, with rows for x where it has rows.
            judge: a full-rank guide fitted to x.
            x: test points (M, ...); the first ones are taken.
            seed: of all that is random.
            progress: whether annealing shows a bar.
        """
        x, settings = x[: self.points], self.settings(seed, progress=progress)
        if not (self.gaps and adapted(q).has_density):
            return evidence(model, judge, x, **settings).summary()
        return inference_gap.gaps(model, q, x, _rows(x), judge=judge, **settings).summary()


def sections(
    model, guide, dataset: Dataset, certify: Certify, seed: int, *, objective: str = "ELBO", progress: bool
) -> dict[str, dict]:
    r"""Computes sections of ``evaluation.json``: "train_gaps" and "test_gaps" if asked for, or "test_ais" alone.

    Arguments:
        model, guide: of the run.
        dataset: whose first points are taken.
        certify: how.
        seed: of all that is random.
        objective: what the guide was trained on.
        progress: whether annealing shows a bar.
    """
    settings = certify.settings(seed, progress=progress)
    kept = {name: value for name, value in settings.items() if name not in ("progress", "num_simulated")}
    test = dataset.test[: certify.points].to(next(model.parameters()).device)
    if certify.gaps and adapted(guide).has_density:
        found = _gaps(model, guide, _training_points(dataset, certify.points).to(test), test, objective, settings)
        return {f"{part}_gaps": result.summary() | kept for part, result in found.items()}
    judge = full_rank(model, test, seed)  # log p(x) does not depend on the guide of the run
    found = evidence(model, judge, test, **settings).summary()
    found["unconverged"] = int((~judge.convergence.converged).sum())
    return {"test_ais": found | kept | ({"reasons": {"gaps": NO_GAP}} if certify.gaps else {})}


def _gaps(model, guide, x: Tensor, test: Tensor, objective: str, settings: dict) -> dict[str, inference_gap.Gaps]:
    r"""The gaps at training points x and at test points; BDMC is measured once.

    A guide with rows for training points gets rows for test points by an E-step there.
    """
    q = e_step(model, guide, test, settings["seed"]) if adapted(guide).per_point else guide
    how = settings | {"families": ("full_rank",), "objective": objective}
    found = {"train": inference_gap.gaps(model, guide, x, _rows(x), **how | {"num_simulated": 0})}
    return found | {"test": inference_gap.gaps(model, q, test, _rows(test), **how)}


def _rows(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device)


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
    said = [f"{part:6} {title:18} {_value(result[name])}" for name, title in TITLES.items()]
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
