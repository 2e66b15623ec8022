r"""Runs `evaluate.evidence` and `evaluate.gaps` for a comparison and for a run."""

from dataclasses import dataclass

from torch import Tensor

from ..data.dataset import Dataset
from ..evaluate import inference_gap
from ..evaluate.decomposition import Gaps
from ..evaluate.marginal.certificate import MATTERS
from ..evaluate.marginal.estimate import Evidence
from ..evaluate.marginal.evidence import Asked, estimated
from ..evaluate.quiet import quiet
from ..guides.base import adapted
from ..guides.programs.given import given_globals
from ..latents.asked import posterior
from ..points import Points
from .scored import NO_GAP
from .scoring import infer_silently


@dataclass(frozen=True)
class Certify:
    r"""Creates the settings with which `compare` certifies log p(x|w) of its rows.

    log p(x) has one estimator in all rows, so that it scores w apart from q: that of `evaluate.evidence`, which starts
    at Gaussians near the posteriors and takes as many temperatures as bring the gap of BDMC within ``tol``.

    Attributes:
        gaps: whether log p(x) − F(q) is also taken apart.
        points: how many test points, the first ones; `None`: all.
        num_chains, num_temperatures, tol: as in `evaluate.evidence`.
        num_samples: the number K of samples of F(q), F(q*) and IWAE-K.
        num_simulated: points of BDMC.
    """

    gaps: bool = False
    points: int | None = None
    num_chains: int = 4
    num_temperatures: int | None = None
    num_samples: int = 200
    tol: float = MATTERS
    num_simulated: int = 64

    def __post_init__(self):
        if self.points is not None and self.points < 2:
            raise ValueError(
                f"points is {self.points}; expected at least 2 points to certify; without a "
                "certificate: certify=None, on the command line --no-ais"
            )
        Asked(**self.numbers())

    def numbers(self) -> dict:
        r"""The arguments of `evaluate.evidence` of the same names."""
        names = ("num_samples", "num_chains", "num_temperatures", "num_simulated", "tol")
        return {name: getattr(self, name) for name in names}

    def __call__(
        self, model, q, points: Tensor | Points, seed: int, *, fitted: bool = False, progress: bool = False
    ) -> Evidence:
        r"""Computes `evaluate.gaps`; without gaps, or where q has none, `evaluate.evidence`.

        Arguments:
            model: a `DLGM`.
            q: its guide, with rows for the points where it has rows.
            points: M test points; the first ones are taken.
            seed: of all that is random.
            fitted: as in `evaluate.gaps`.
            progress: whether annealing shows a bar.
        """
        model, q = given_globals(model, q)
        bounds = self.bounds(model, q, points, seed, fitted=fitted)
        return with_bounds(self.evidence(model, points, seed, progress=progress), bounds)

    def evidence(self, model, points: Tensor | Points, seed: int, *, progress: bool = False) -> Evidence:
        r"""Computes `evaluate.evidence` at the first of the points, with a bar if ``progress``.

        Here and in `bounds` global latents are given.
        """
        return estimated(model, None, self._first(points), Asked(**self.numbers()), seed=seed, progress=progress)

    def bounds(self, model, q, points: Tensor | Points, seed: int, *, fitted: bool = False) -> dict | None:
        r"""Computes what `evaluate.gaps` adds to `evidence`; `None` where gaps were not asked for, or q has none."""
        points = self._first(points)
        if not (self.gaps and has_gap(model, q, points)):
            return None
        how = {"fitted": fitted, "num_samples": self.num_samples, "seed": seed}
        return inference_gap.decomposed(model, q, points, **how)

    def _first(self, points: Tensor | Points) -> Points:
        return Points.of(points)[: self.points].numbered()


def with_bounds(evidence: Evidence, bounds: dict | None) -> Evidence:
    r"""Returns the `Gaps` of an evidence and the bounds of `Certify.bounds`; without bounds, the evidence."""
    return evidence if bounds is None else Gaps(**vars(evidence), **bounds, objective="ELBO")


def has_gap(model, q, points: Points) -> bool:
    r"""Whether q is a Gaussian, of a family with a best member."""
    if not adapted(q).has_density or adapted(q).posterior is None:
        return False
    with quiet(model, q):
        return inference_gap.family_of(posterior(q, points[:1])) is not None


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
    kept = {name: value for name, value in certify.numbers().items() if name != "num_simulated"} | {"seed": seed}
    device = next(model.parameters()).device
    test = dataset.test_points[: certify.points].to(device).numbered()
    how = certify.numbers() | {"seed": seed, "progress": progress}
    if certify.gaps and has_gap(model, guide, test):
        train = dataset.seen(len(test)).to(device)
        found = _gaps(model, guide, train, test, how | {"families": ("full_rank",), "objective": objective})
        return {f"{part}_gaps": kept | result.summary() for part, result in found.items()}
    found = estimated(model, None, test, Asked(**certify.numbers()), seed=seed, progress=progress).summary()
    return {"test_ais": kept | found | ({"reasons": {"gaps": NO_GAP}} if certify.gaps else {})}


def _gaps(model, guide, train: Points, test: Points, how: dict) -> dict[str, Gaps]:
    r"""The gaps at training points and at test points; BDMC is measured once, and so is how many temperatures it takes.

    A guide with rows for training points gets rows for test points by an E-step there.
    """
    q = infer_silently(model, guide, test, how["seed"]) if adapted(guide).per_point else guide
    of_test = inference_gap.gaps(model, q, test, **how, fitted=q is not guide)
    same = {"num_simulated": 0, "num_temperatures": of_test.num_temperatures}
    return {"train": inference_gap.gaps(model, guide, train.numbered(), **how | same), "test": of_test}
