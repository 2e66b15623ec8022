r"""Verdicts in words on log p(x) and the inference gap, as far as the certificate covers them.

BDMC allows an estimate of log p(x) to be off by |gap| + 2 standard errors. If a verdict depends on less than that, it
is replaced by "log p(x) is not certified here".
"""

import math

MATTERS = 0.1  # nats worth reporting
NOT_CERTIFIED = "log p(x) is not certified here"


def allowed(bdmc: dict | None) -> float:
    r"""Returns by how much log p(x) may be off by the certificate, in nats: |gap| + 2 standard errors; ∞ without one.

    Arguments:
        bdmc: ``gap`` and ``standard_error``, as in the summary of `Evidence`, or `None`.
    """
    numbers = (None, None) if bdmc is None else (bdmc["gap"], bdmc["standard_error"])
    if None in numbers or not all(map(math.isfinite, numbers)):
        return math.inf
    return abs(numbers[0]) + 2 * numbers[1]


def doubt(bdmc: dict | None, spoken: float) -> str | None:
    r"""Returns the verdict "log p(x) is not certified here", with the reason, if the allowed error exceeds ``spoken``.

    Arguments:
        bdmc: as in `allowed`.
        spoken: the size of what the verdict is about, in nats.

    Returns:
        A sentence, or `None` if the verdict is supported.
    """
    off = allowed(bdmc)
    if off <= spoken:
        return None
    if not math.isfinite(off):
        return f"{NOT_CERTIFIED}: there is no BDMC, or its gap is not finite."
    return (
        f"{NOT_CERTIFIED}: by BDMC, {said(bdmc)}, it may be off by {off:.2f} nats, more than the {spoken:.2f} "
        "in question; take more temperatures, or another q to start from."
    )


def said(bdmc: dict) -> str:
    r"""Returns the gap of BDMC with its error, as text."""
    return f"{bdmc['gap']:.2f} ± {bdmc['standard_error']:.2f}"


def of_log_px(summary: dict, bdmc: dict | None) -> str | None:
    r"""Returns the `doubt` of log p(x) itself, at a precision of 0.1 nats or two of its Monte Carlo errors."""
    return doubt(bdmc, max(MATTERS, 2 * (summary["log_px"]["monte_carlo_error"] or 0)))


def of_gaps(summary: dict, bdmc: dict | None) -> str:
    r"""Returns which part of the inference gap is larger, if certificate and errors allow a verdict.

    Arguments:
        summary: the summary of a `Gaps`.
        bdmc: as in `allowed`.
    """
    total, family, parameters = (summary[part] for part in ("total", "approximation", "amortization"))
    if None in (family["mean"], parameters["mean"], total["mean"]):
        return "The gap is not finite: look at the scores of single points."
    error = (family["standard_error"] or 0) + (parameters["standard_error"] or 0)
    difference = family["mean"] - parameters["mean"]
    # KL(q || posterior) is never negative, so its variation over points does not tell whether it is zero.
    zero = max(MATTERS, 2 * (total["monte_carlo_error"] or 0))
    if total["mean"] <= zero:
        spoken, verdict = zero, "q is the posterior, as far as this tells."
    elif abs(difference) <= error:
        spoken, verdict = max(MATTERS, error), "Family and parameters lose about the same: look at both."
    elif difference > 0:
        spoken, verdict = difference, f"The family ({summary['own_family']}) loses most: a richer q would gain most."
    else:
        said_so = "The parameters of q lose most: a better encoder, or a longer E-step, would gain most."
        spoken, verdict = -difference, said_so
    return doubt(bdmc, spoken) or verdict


def verdicts(summary: dict, bdmc: dict | None) -> list[str]:
    r"""Returns the verdict on the gap, if there is one, and the note that log p(x) is not certified, if it is not."""
    gap = [of_gaps(summary, bdmc)] if "total" in summary else []
    of_evidence = of_log_px(summary, bdmc) if "log_px" in summary else None
    return gap if of_evidence is None or doubts(gap) else [*gap, of_evidence]


def doubts(lines: list[str]) -> list[str]:
    r"""Returns the lines that say that log p(x) is not certified."""
    return [line for line in lines if line.startswith(NOT_CERTIFIED)]
