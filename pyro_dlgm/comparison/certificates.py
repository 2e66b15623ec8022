r"""Runs `evaluate.evidence` and `evaluate.gaps` for a comparison and for a run."""

from dataclasses import dataclass

from torch import Tensor

from ..data.dataset import Dataset
from ..evaluate import inference_gap
from ..evaluate.marginal.evidence import check, evidence
from ..guides.base import adapted
from ..points import Points
from .columns import NO_GAP
from .scoring import full_rank, infer_silently


@dataclass(frozen=True)
class Certify:
    r"""Creates the settings with which `compare` certifies log p(x|w) of its rows.

    log p(x) has one estimator in all rows, so that it scores w apart from q: AIS from a full-rank E-step on the test
    points, or IWAE with it, whichever has the larger mean, or within errors the smaller error (`evaluate.evidence`).

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

    def __call__(self, model, q, judge, points: Tensor | Points, seed: int, *, progress: bool = False) -> dict:
        r"""Computes the summary of `evaluate.gaps`; without gaps, or where q has none, that of `evaluate.evidence`.

        Arguments:
            model: a `DLGM`.
            q: its guide, with rows for the points where it has rows.
            judge: a full-rank guide fitted to the points.
            points: M test points; the first ones are taken.
            seed: of all that is random.
            progress: whether annealing shows a bar.
        """
        points, settings = Points.of(points)[: self.points].numbered(), self.settings(seed, progress=progress)
        if not (self.gaps and adapted(q).has_density):
            return evidence(model, judge, points, **settings).summary()
        return inference_gap.gaps(model, q, points, judge=judge, **settings).summary()


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
    device = next(model.parameters()).device
    test = dataset.test_points[: certify.points].to(device)
    if certify.gaps and adapted(guide).has_density:
        found = _gaps(model, guide, dataset.seen(certify.points).to(device), test, objective, settings)
        return {f"{part}_gaps": result.summary() | kept for part, result in found.items()}
    judge = full_rank(model, test, seed)  # log p(x) does not depend on the guide of the run
    found = evidence(model, judge, test, **settings).summary()
    found["unconverged"] = int((~judge.convergence.converged).sum())
    return {"test_ais": found | kept | ({"reasons": {"gaps": NO_GAP}} if certify.gaps else {})}


def _gaps(model, guide, points: Points, test: Points, objective: str, settings: dict) -> dict[str, inference_gap.Gaps]:
    r"""The gaps at training points and at test points; BDMC is measured once.

    A guide with rows for training points gets rows for test points by an E-step there.
    """
    q = infer_silently(model, guide, test, settings["seed"]) if adapted(guide).per_point else guide
    how = settings | {"families": ("full_rank",), "objective": objective}
    train = inference_gap.gaps(model, guide, points.numbered(), **how | {"num_simulated": 0})
    return {"train": train, "test": inference_gap.gaps(model, q, test.numbered(), **how)}
