r"""The section of a report with the verdicts of `evaluate.diagnose` on q."""

import math
from functools import partial

from markupsafe import Markup

from ..evaluate.diagnostics.diagnose import Diagnosis, diagnose
from ..evaluate.snapshot import Snapshot
from ..guides.base import adapted
from ..plots.diagnostics import latents
from .sections import PAGES, Section, drawing, missing
from .views import UNSAID, unsaid, with_posterior

POINTS = 200  # at most: densities are computed for all pairs of them
SIMULATED = 200  # points for calibration
NO_DENSITY = "q is a point mass or a chain, without a density: there is no KL, no I(x; t) and no calibration"
COLLAPSE = (
    "{}: no latent is active: the mean of q hardly changes from point to point (posterior collapse). What helps: "
    "--warmup, more --e-steps, objectives.FreeBits in Python, or a longer training."
)


def verdicts(pairs: dict[str, Snapshot], of: str, *, calibrate: bool = False) -> Section:
    r"""Returns the section with the verdicts on each pair at its first points, with a figure if there is one pair.

    Arguments:
        pairs: snapshots by name.
        of: what the points are, such as "test".
        calibrate: whether points are simulated as well, if q needs no E-step on them.
    """
    caption = (
        f"Each line is a verdict of evaluate.diagnose on q at the first {of} points, at most {POINTS}, in nats per "
        "point. An active latent has a posterior mean that varies from point to point; where there is none, t says "
        "next to nothing of x."
    )
    seen = with_posterior(pairs)
    if not seen:
        return missing("Verdicts", caption, UNSAID)
    found, refused = {}, []
    for name, pair in seen.items():
        found[name], reason = _found(pair, calibrate)
        refused += [f"{name}: no calibration, since {reason}"] if reason else []
    blocks = [(name, _lines(seen[name], diagnosis)) for name, diagnosis in found.items()]
    body = Markup(PAGES.get_template("verdicts.html").render(blocks=blocks))
    diagnoses = [diagnosis for diagnosis in found.values() if diagnosis is not None]
    if len(seen) == len(diagnoses) == 1:
        body += drawing(lambda: latents(diagnoses[0]), "KL and aggregate posterior of each latent")
    notes = tuple(COLLAPSE.format(name) for name in seen if _active(seen[name], found[name]) == 0)
    return Section("Verdicts", caption, body, notes + tuple(refused) + unsaid(pairs))


def _found(pair: Snapshot, calibrate: bool) -> tuple[Diagnosis | None, str]:
    r"""Returns the diagnosis at the first points, and the reason if a calibration was requested and failed.

    It is `None` if q has no density, or there is a single point.
    """
    points = pair.points[:POINTS]
    if not pair.has_density or len(points) < 2:
        return None, ""
    simulated = 0 if not calibrate or adapted(pair.guide).per_point else SIMULATED
    ask = partial(diagnose, pair.model, pair.guide, points, seed=0)
    try:
        return ask(num_simulated=simulated), ""
    except (ValueError, TypeError, NotImplementedError) as error:
        if not simulated:
            raise
        # A likelihood need not have samples, nor a program further sites that could be drawn.
        return ask(num_simulated=0), str(error) or f"points cannot be simulated ({type(error).__name__})"


def _active(pair: Snapshot, found: Diagnosis | None) -> float:
    r"""Returns how many latents are active; NaN if it is not known."""
    if found is not None:
        return int(found.active_by_variance.sum())
    return pair.active() if len(pair.x) > 1 else math.nan


def _lines(pair: Snapshot, found: Diagnosis | None) -> dict[str, str]:
    r"""Returns the verdicts, by what they are about."""
    if found is not None:
        return ({"given": found.conditions} if found.conditions else {}) | found.verdicts
    if pair.has_density:
        return {"q": "there is a single point, and verdicts need at least two"}
    active, D = _active(pair, found), pair.latent_dim()
    said = "a single state of a chain does not tell" if math.isnan(active) else f"{active:.0f} of {D}"
    return {"active units": f"{said}, by the variance of E_q[t | x] (> 0.01)", "KL(q || p)": NO_DENSITY}
