r"""Pictures of a diagnosis: the KL of each latent, the ranks of calibration, and the coverage of intervals."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..evaluate.diagnostics.calibration import Calibration, Coverage
from ..evaluate.diagnostics.diagnose import Diagnosis
from ..evaluate.diagnostics.uniformity import ecdf_band, ecdf_difference
from .palette import REFERENCE, colour


def calibration(found: Calibration) -> Figure:
    r"""Draws the ECDF of the ranks minus that of uniform ranks on the left, and the coverage of intervals on the right.

    Each thin line is a dimension, the thick one log p(x, t). The band contains a line with a probability of 95%: of 20
    lines of an exact q, one leaves it. A line above the band on the left and below it on the right means that q is too
    narrow, the mirror image that it is too wide, a line on one side that it is shifted.

    Arguments:
        found: the result of `evaluate.check_calibration`.

    Raises:
        TypeError: if it is something else, such as the result of `evaluate.diagnose`, which has it as ``calibration``.
    """
    if not isinstance(found, Calibration):
        raise TypeError(
            f"found is a {type(found).__name__}; expected the result of evaluate.check_calibration, or the calibration "
            "of an evaluate.diagnose with num_simulated > 0"
        )
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _ranks(left, found.ranks, found.joint_ranks, found.num_samples)
    _coverage(right, found.coverage)
    return figure


def latents(found: Diagnosis) -> Figure:
    r"""Draws the KL of each latent, in nats per point, and mean ± standard deviation of q(t_d), with the prior in grey.

    Arguments:
        found: the result of `evaluate.diagnose`.

    Raises:
        TypeError: if it is something else, such as the result of `evaluate.check_calibration`.
    """
    if not isinstance(found, Diagnosis):
        raise TypeError(f"found is a {type(found).__name__}; expected the result of evaluate.diagnose(model, guide, x)")
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    dimensions = range(len(found.mean_variance))  # counted from 0, as everywhere
    if found.kl is not None:
        active = found.active_by_variance.tolist()
        left.bar(dimensions, found.kl.tolist(), color=[colour(0) if a else REFERENCE for a in active])
    left.set(xlabel="latent (grey: variance of E[t | x] over points <= 0.01)", ylabel="KL, nats per point")
    low, high = (found.prior_mean - found.prior_std).cpu(), (found.prior_mean + found.prior_std).cpu()
    right.bar(dimensions, (high - low).tolist(), bottom=low.tolist(), color=REFERENCE, alpha=0.25, width=0.9)
    centre, width = found.aggregate_mean.tolist(), found.aggregate_std.tolist()
    right.errorbar(dimensions, centre, width, fmt="o", color=colour(0), capsize=3)
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="latent", ylabel="q(t): mean ± std (grey: prior)")
    return figure


def _ranks(axis, ranks: Tensor, joint: Tensor, L: int) -> None:
    z = torch.arange(1, L + 1) / (L + 1)
    band = {"color": REFERENCE, "alpha": 0.25, "linewidth": 0, "label": "95% band"}
    axis.fill_between(z, *ecdf_band(len(ranks), L), step="mid", **band)
    lines = axis.plot(z, ecdf_difference(ranks, L).cpu(), color=colour(0), linewidth=0.8)
    lines[0].set_label("a dimension of t")
    axis.plot(z, ecdf_difference(joint.unsqueeze(-1), L).cpu(), color=colour(1), linewidth=2, label="log p(x, t)")
    axis.set(xlabel=f"rank of the truth among {L} samples of q, divided by {L + 1}", ylabel="ECDF − uniform")
    axis.legend(fontsize=8)


def _coverage(axis, c: Coverage) -> None:
    levels = c.levels.cpu()
    axis.plot([0, 1], [0, 1], color=REFERENCE, linewidth=0.8, label="as often as promised")
    lines = axis.plot(levels, c.found.cpu(), color=colour(0), linewidth=0.8)
    lines[0].set_label("a dimension of t")
    style = {"color": colour(1), "fmt": "o", "markersize": 4, "capsize": 3, "label": "all, ± 2 standard errors"}
    axis.errorbar(levels, c.pooled.cpu(), 2 * c.pooled_stderr.cpu(), **style)
    axis.set(xlabel="nominal probability of the interval", ylabel="fraction of the truths inside")
    axis.set(xlim=(0.4, 1), ylim=(0, 1))
    axis.legend(fontsize=8, loc="lower right")
